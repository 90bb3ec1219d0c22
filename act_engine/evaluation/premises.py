"""What a measurement takes for granted about images, labels and the model, checked where it begins.

What is wrong raises: images outside [0, 1], labels that are no class numbers, outputs that are no logits. What makes a
figure doubtful is counted, and becomes a warning: answers that depend on chance or on the rest of the batch,
probabilities, NaN under attack.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.attack import frozen_model, unit_range, untouched
from act_engine.attack.outputs import logits_of

PROBED = 8
"""Images of a process's first batch of which the model is asked more than once."""
BEHAVIOUR = ("probed", "chance", "batch", "probabilities")
"""What `behaviour` counts, in images."""


class PremiseError(ValueError):
    """Images, labels or a model that cannot be measured, in one line."""


class PremiseWarning(UserWarning):
    """A measured figure may not mean what it seems to mean."""


def defined(logits: Tensor) -> Tensor:
    """Which rows [B] of the logits say something: −inf masks a class, NaN and +inf are faults."""
    return (logits < torch.inf).all(1)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images [B] the model gets right; an answer that is not defined is wrong, whatever its argmax."""
    return (logits.argmax(1) == labels) & defined(logits)


def check_batch(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The images, and their labels as int64 on the same device; looks at types and shapes alone.

    Raises:
        PremiseError: naming what is wrong.
    """
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise PremiseError(f"images: got {_kind(images)}; allowed: a tensor [B, C, H, W], float in [0, 1] or uint8")
    if images.dim() < 2:
        raise PremiseError(f"images: got the shape {list(images.shape)}; allowed: [B, C, H, W]")
    allowed = f"class numbers, a tensor of integers [{len(images)}]"
    if not isinstance(labels, Tensor):
        raise PremiseError(f"labels: got {_kind(labels)}; allowed: {allowed}")
    if labels.shape != images.shape[:1]:
        hint = ""
        if labels.dim() == 2 and len(labels) == len(images):
            hint = " (squeeze the second axis)" if labels.shape[1] == 1 else " (one-hot: labels.argmax(1))"
        raise PremiseError(f"labels: got the shape {list(labels.shape)}; allowed: {allowed}{hint}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise PremiseError(f"labels: got {_kind(labels)}; allowed: {allowed}")
    return images, labels.to(images.device, torch.int64)


def check_model(model: nn.Module, images: Tensor) -> torch.dtype:
    """The dtype of the model's logits; it is asked about the first two images, as it is.

    Raises:
        PremiseError: its output is no tensor of logits [B, classes].
    """
    few = unit_range(images[:2]).clone()
    with torch.no_grad(), untouched(model), frozen_model(model):
        output = model(few)
    try:
        logits = logits_of(output, len(few))
    except ValueError as error:
        raise PremiseError(str(error)) from None
    if logits.shape[1] < 2:
        raise PremiseError(
            "model: got one number an image; allowed: logits [B, classes], 2 or more (of one logit z: "
            "torch.cat([-z / 2, z / 2], 1))"
        )
    if not logits.is_floating_point():
        raise PremiseError(f"model: got {_kind(logits)}; allowed: logits [B, classes], of floats")
    return logits.dtype


def check_values(images: Tensor, labels: Tensor, logits: Tensor, first: int) -> int:
    """How many of the images are dark: all that the batch has if none of its values is above 1 / 255, or else none.

    All that it looks at comes from the device in one piece.

    Args:
        first: place of the first image in the data set.

    Raises:
        PremiseError: images are not in [0, 1], labels are no classes, or clean logits are not finite.
    """
    low, high = images.aminmax()
    values = (low, high, labels.min(), labels.max(), defined(logits).logical_not().sum())
    *ends, smallest, largest, bad = torch.stack([value.double() for value in values]).tolist()
    place = f"(images {first} to {first + len(labels) - 1})"
    classes = logits.shape[1]
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise PremiseError(f"labels: got {int(wrong)} {place}; allowed: 0 to {classes - 1}, as the model has {classes}")
    _check_range(*ends, images.dtype, place)
    if bad:
        raise PremiseError(
            f"model: got NaN or infinity for {int(bad)} of {len(labels)} clean images {place}; allowed: finite logits"
        )
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    return len(labels) if ends[1] <= unit / 255 else 0


def check_range(images: Tensor) -> None:
    """Raise PremiseError if images, of which there are some, are not in [0, 1]; waits for the device."""
    _check_range(*torch.stack(images.aminmax()).tolist(), images.dtype, f"({len(images)} images)")


def _check_range(low: float, high: float, dtype: torch.dtype, place: str) -> None:
    if dtype == torch.uint8:
        return
    slack = 4 * torch.finfo(dtype).eps  # of a normalisation that was taken back
    if not (low >= -slack and high <= 1 + slack):
        hint = "give uint8, or divide by 255" if low >= -slack else "normalise inside the model; clamp what overshoots"
        got = "NaN" if low != low else f"values from {low:.4g} to {high:.4g}"
        raise PremiseError(f"images: got {got} {place}; allowed: floats in [0, 1], or uint8 ({hint})")


def rounding(dtype: torch.dtype, device: torch.device) -> float:
    """How far two evaluations of one image may lie apart by rounding, relative to the largest logit.

    Batches of other sizes are summed in other orders, by other algorithms. A sum of n products errs by about √n
    roundings of its accumulator: with n up to some thousands, some tens of layers, or fast (Winograd) convolutions, 2¹²
    roundings of float32. Where values are kept, or multiplied, with fewer bits, 64 layers add √64 roundings of those.

    Args:
        dtype: of the model's own output, which tells what it computes in.
    """
    accumulator = torch.finfo(torch.promote_types(dtype, torch.float32)).eps / 2
    kept = torch.finfo(dtype).eps / 2
    if device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        kept = max(kept, 2.0**-11)
    return 2**12 * accumulator + 8 * kept


@torch.no_grad()
def behaviour(view: Callable[[Tensor], Tensor], images: Tensor, logits: Tensor, bound: float) -> list[int]:
    """`BEHAVIOUR` over some images of a batch, whose `logits` [B, classes] are what the view said in the batch.

    They are asked about twice more, in other places of a batch with other images, their negatives: these two answers
    differ by chance, both from the one before by the company.

    Args:
        bound: how far answers may lie apart, relative to the largest logit.
    """
    before = logits[:PROBED]
    few = unit_range(images[:PROBED]).flip(0)
    company = torch.cat([(1 - few).clamp(0, 1), few])
    once, again = (view(company)[len(few) :].flip(0) for _ in range(2))

    def differ(a: Tensor, b: Tensor) -> Tensor:
        scale = before.nan_to_num(0.0, 0.0, 0.0).abs().max()
        return ((a != b) & ~((a - b).abs() <= bound * scale)).any(1)

    chance = differ(once, again)
    batch = differ(once, before) & ~chance.any()
    low, high = logits.aminmax()
    inside = (low >= -bound) & (high <= 1 + bound)
    shares = ((logits.sum(1) - 1).abs() <= bound).all()
    inside &= shares | ((low < 0.05) & (high > 0.95))  # or sigmoids, which training drives to both ends
    return [len(few), *torch.stack([chance.sum(), batch.sum(), inside * len(few)]).tolist()]


@dataclass
class Record:
    """What attacks met on one batch; the counts that need the device stay there."""

    asked: int = 0
    """Images that the model was asked about."""
    undefined: Tensor | int = 0
    """Those for which its logits were NaN or +inf."""
    gradients: int = 0
    """Input gradients taken, in images."""
    broken: Tensor | int = 0
    """Those that were not finite."""
    warnings: list[str] = field(default_factory=list)
    """What an attack has to say of its run."""

    def counts(self) -> tuple[int, Tensor | int, int, Tensor | int]:
        """The numbers, in the order of `ATTACKED`."""
        return self.asked, self.undefined, self.gradients, self.broken

    def add(self, other: "Record") -> None:
        """Take in what another record holds."""
        self.asked, self.undefined = self.asked + other.asked, self.undefined + other.undefined
        self.gradients, self.broken = self.gradients + other.gradients, self.broken + other.broken
        self.warnings += other.warnings


ATTACKED = ("asked", "undefined", "gradients", "broken")
"""What `Record.counts` holds, in images."""


@dataclass
class WatchedView:
    """A view of a model, for any attack, that notes logits and input gradients that are not finite.

    Such a gradient is handed on with zeros there, so that it makes no images of NaN. Nothing is fetched from the
    device: the counts are there when the batch's other results are.
    """

    view: Callable[[Tensor], Tensor]
    record: Record = field(default_factory=Record)
    on_call: Callable[[], object] = lambda: None
    """Called at each of the model's answers: the attack gets on."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes] for images [B, C, H, W]."""
        self.on_call()
        logits = self.view(images)
        self.record.asked += len(logits)
        self.record.undefined = self.record.undefined + (~defined(logits.detach())).sum()
        if torch.is_grad_enabled() and images.requires_grad:
            if not logits.requires_grad:
                raise PremiseError(
                    "model: got logits without a gradient with respect to the images (detach, no_grad, "
                    "numpy or argmax on the way?); allowed: differentiable ones"
                )
            images.register_hook(self._see)
        return logits

    def _see(self, gradient: Tensor) -> Tensor:
        finite = gradient.flatten(1).sum(1, dtype=torch.promote_types(gradient.dtype, torch.float32)).isfinite()
        self.record.gradients += len(gradient)
        self.record.broken = self.record.broken + (~finite).sum()
        return gradient.nan_to_num(0.0, 0.0, 0.0)


def sentences(totals: Mapping[str, int], samples: int) -> list[str]:
    """Warnings, each a sentence with its figures; none if all is as taken for granted.

    Args:
        totals: `BEHAVIOUR`, ``"dark"`` and `ATTACKED`, over all processes.
        samples: images measured.
    """
    probed = totals["probed"]
    found = []
    if totals["chance"]:
        found.append(
            f"chance: asked twice about the same images, the model answers {totals['chance']} of {probed} otherwise: "
            "the figures hold for this draw alone, and an attack that expects the same answer is weaker than it seems"
        )
    if totals["batch"]:
        found.append(
            f"batch: the answer for {totals['batch']} of {probed} images depends on the images beside them: so do the "
            "figures, and on the batch size"
        )
    if totals["probabilities"]:
        found.append(
            "probabilities: the model's outputs look like probabilities, through which the gradients all but vanish "
            "where the model is sure: measure the logits before them"
        )
    if totals["dark"] == samples:
        found.append("images: no value is above 1/255: divided by 255 twice, or 0 and 1 as uint8?")
    if totals["undefined"]:
        found.append(
            f"logits: NaN or infinity for {totals['undefined']} of {totals['asked']} images under attack; counted "
            "as wrong"
        )
    if totals["broken"]:
        found.append(
            f"gradients: {totals['broken']} of {totals['gradients']} were not finite; what was not is taken as 0, so "
            "the attack is weaker than it could be"
        )
    return found


def once_each(texts: Iterable[str]) -> list[str]:
    """The texts in their order, of those that differ by their numbers alone the one whose first number is largest."""
    kept: dict[str, str] = {}
    for text in texts:
        kind = _NUMBER.sub("#", text)
        if kind not in kept or _first_number(text) > _first_number(kept[kind]):
            kept[kind] = text
    return list(kept.values())


_NUMBER = re.compile(r"\d+(\.\d+)?")


def _first_number(text: str) -> float:
    found = _NUMBER.search(text)
    return float(found[0]) if found else 0.0


def _kind(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
