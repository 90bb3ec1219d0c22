"""Results of attacks, kept batch by batch: an evaluation that is interrupted or repeated measures nothing twice."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.evaluation.attacks import EvaluationAttack, Place
from act_engine.evaluation.premises import Record, WatchedView, rounding
from act_engine.runs.folder import write_json
from act_engine.runs.reading import read_json

ASKED = 4
"""Images of noise by which a model is told from another."""
NAMED = 16
"""Classes whose logits are kept for each."""


@dataclass
class Kept:
    """An attack whose result on a batch is a small file: read where it is there and belongs to the same question.

    The question is the attack's settings, the models' weights, what they answer, the batch and its place. Answers are
    compared up to rounding, all else exactly; a file that is torn or belongs to another question is written anew.

    Args:
        attack: what is run where no file answers.
        settings: all that decides its result beside the model and the batch; JSON.
        file: folder and beginning of the files' names, to which the batch's place is added.
        models: others that the result depends on.
        again: read nothing.
    """

    attack: EvaluationAttack
    settings: Mapping[str, Any]
    file: Path
    models: Sequence[Callable[[Tensor], Tensor]] = ()
    again: bool = False

    def __post_init__(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._answers: list[list[float]] | None = None

    @property
    def stages(self) -> int:
        return self.attack.stages

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        if self._answers is None:
            self._answers = [part for model in (view.view, *self.models) for part in answers(model, x)]
        belongs = {
            **self.settings,
            "seed": place.seed,
            "place": [place.first, place.total],
            "batch": digest({"x": x, "y": y}),
            "right": _bits(survives),
        }
        belongs = json.loads(json.dumps(belongs))  # as it will be read back
        file = self.file.with_name(f"{self.file.name}-{place.first}.json")
        found = None if self.again else self._read(file, belongs, (self.stages, len(y)), y.device)
        if found is None:
            record = Record()
            masks = self.attack(WatchedView(view.view, record, view.on_call), x, y, survives, place)
            value = {
                "belongs": belongs,
                "answers": self._answers,
                "robust": [_bits(mask) for mask in masks],
                "record": [int(count) for count in record.counts()],
                "warnings": record.warnings,
            }
            write_json(file, value)
        else:
            masks, record = found
        view.record.add(record)
        return masks

    def _read(
        self, file: Path, belongs: dict[str, Any], shape: tuple[int, int], device: torch.device
    ) -> tuple[Tensor, Record] | None:
        """A batch's result, if its file is there, whole, and belongs to the same question."""
        try:
            kept = read_json(file, ("belongs", "answers", "robust", "record", "warnings"))
            if kept["belongs"] != belongs or not _alike(kept["answers"], self._answers):
                return None
            masks = torch.tensor([[int(bit) for bit in row] for row in kept["robust"]], dtype=torch.bool, device=device)
            asked, undefined, gradients, broken = map(int, kept["record"])
            record = Record(asked, undefined, gradients, broken, [str(text) for text in kept["warnings"]])
        except (ValueError, KeyError, TypeError, OverflowError):  # not there, or no file of ours: it is written anew
            return None
        return (masks, record) if masks.shape == shape else None


def answers(model: Callable[[Tensor], Tensor], x: Tensor) -> list[list[float]]:
    """What a model says and where its gradient points, on a few images of noise: its fingerprint."""
    generator = torch.Generator().manual_seed(0)
    dtype = x.dtype if x.is_floating_point() else torch.float32
    noise = torch.rand((2, ASKED, *x.shape[1:]), generator=generator).to(x.device, dtype)
    leaf = noise[0].requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    values = [logits[:, :NAMED].flatten(), logits.norm(dim=1)]
    if logits.requires_grad:
        weights = torch.arange(logits.shape[1]).cos().to(logits)
        gradient = torch.autograd.grad((logits * weights).sum(), leaf)[0].flatten(1)
        values.append(torch.cat([(gradient * noise[1].flatten(1)).sum(1), gradient.norm(dim=1)]))
    return [value.double().tolist() for value in values]


def weights(model: nn.Module) -> str:
    """The SHA-256 of a model's state, in hexadecimal."""
    return digest({key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors: their names, types, shapes and values, whatever their layout."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _alike(kept: Any, now: list[list[float]] | None) -> bool:
    pairs = zip(kept, now or [], strict=True)
    bound = rounding(torch.float32, torch.device("cpu"))
    return all(
        len(a) == len(b) and all(abs(p - q) <= bound * max(map(abs, b)) for p, q in zip(a, b, strict=True))
        for a, b in pairs
    )


def _bits(mask: Tensor) -> str:
    return "".join(map(str, mask.int().tolist()))
