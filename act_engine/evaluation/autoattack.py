"""AutoAttack (Croce and Hein 2020, arXiv 2003.01690) by the pyautoattack library, kept chunk by chunk."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from act_engine.attack import AttackView, unit_range
from act_engine.evaluation.attacks import Place
from act_engine.runs.folder import write_json

NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9  # of the targeted attacks, as published, where there are so many wrong classes
MIN_CLASSES = 4  # for the targeted DLR loss


@dataclass
class AutoAttack:
    """One model's images through the library, a chunk a call; a chunk's result is a small file, read if it is there.

    The library draws its random starts for a chunk as a whole, so the same chunks give the same result. The file tells
    the settings, the weights and the images that it belongs to; one that belongs to others is written anew.

    Args:
        model: images in [0, 1] to logits [B, classes], in eval mode; a copy is attacked, without any speed-up.
        version: ``"standard"``, ``"plus"`` or ``"rand"``, as published.
        eps: in [0, 1] pixel units.
        state: folder of the chunks' files; None: none are kept.
        name: of the model, in the files' names.

    Raises:
        ValueError: the library is not installed.
    """

    model: nn.Module
    eps: float
    norm: str = "linf"
    version: str = "standard"
    state: Path | None = None
    name: str = "model"
    warnings: list[str] = field(default_factory=list)
    """What the library warned of in the chunks of this process, each once."""

    stages = 1

    def __post_init__(self) -> None:
        import_autoattack()
        self._view = AttackView(self.model, fold=False, channels_last=False)
        if self.state is not None:
            self.state.mkdir(exist_ok=True)
        weights = {key: value.cpu().contiguous() for key, value in self.model.state_dict().items()}
        self._digest = hashlib.sha256(to_bytes({key: value.clone() for key, value in weights.items()})).hexdigest()

    def __call__(self, view: AttackView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        x = unit_range(x).contiguous()  # the library takes views of it, which channels_last would not allow
        belongs = {
            "version": self.version,
            "norm": self.norm,
            "eps": self.eps,
            "seed": place.seed,
            "weights": self._digest,
            "images": hashlib.sha256(to_bytes({"x": x.cpu(), "y": y.cpu()})).hexdigest(),
        }
        file = None if self.state is None else self.state / f"{self.name}-{place.first}.json"
        found = _read(file, belongs)
        if found is None:
            robust, warnings = self._run(x, y, place.seed)
            found = {"belongs": belongs, "robust": robust.int().tolist(), "warnings": warnings}
            if file is not None:
                write_json(file, found)
        self.warnings += [text for text in found["warnings"] if text not in self.warnings]
        return torch.tensor(found["robust"], dtype=torch.bool, device=y.device)[None]

    def _run(self, x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, list[str]]:
        """Which of the images withstand all attacks [B], and what the library warned of."""
        devices = [x.device] if x.is_cuda else []
        with _collected_warnings() as warnings, torch.random.fork_rng(devices):  # it seeds PyTorch's own generators
            adversary = import_autoattack().AutoAttack(
                self._view, norm=NORMS[self.norm], eps=self.eps, seed=seed, version=self.version, device=x.device
            )
            with torch.no_grad():
                wrong_classes = self._view(x[:1]).shape[1] - 1
            for attack in (adversary.apgd_targeted, adversary.fab):
                attack.n_target_classes = min(TARGETS, wrong_classes)
            _, predicted = adversary.run_standard_evaluation(x, y, batch_size=len(x))
        return predicted == y, warnings


def import_autoattack() -> ModuleType:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyautoattack
    except ImportError as error:
        raise ValueError(
            "evaluate.attack: got 'autoattack', which is not installed; pip install 'act-engine[evaluation]'"
        ) from error
    return pyautoattack


def _read(file: Path | None, belongs: dict[str, object]) -> dict | None:
    """A chunk's result, if its file is there and belongs to the same settings, weights and images."""
    if file is None or not file.exists():
        return None
    found = json.loads(file.read_text("utf-8"))
    return found if found["belongs"] == belongs else None


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """The library's log, of which the warnings are kept and nothing is printed."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, handler = logging.getLogger("auto-attack"), Keep(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
