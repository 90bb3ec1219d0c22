"""What a training method is: a class that says everything about itself, from its name to its losses."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack, Labels, correction, distribution
from act_engine.attack.labels import are_plain

Models = Mapping[str, Callable[[Tensor], Tensor]]
"""By name: images [B, C, H, W] to float logits [B, classes]; the trained ones in train mode, the frozen ones in eval
mode and without a graph."""


@dataclass(frozen=True)
class Range:
    """The values that a number may take, and what it means."""

    meaning: str = ""
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if self.least > -math.inf and self.most < math.inf:
            return f"{self.least:g} to {self.most:g}"
        bounds = {
            f"{self.least:g} or more": self.least,
            f"above {self.above:g}": self.above,
            f"below {self.below:g}": self.below,
            f"at most {self.most:g}": self.most,
        }
        return ", ".join(text for text, bound in bounds.items() if math.isfinite(bound)) or "a number"


def number(default: float, meaning: str, **bounds: float) -> Any:
    """A dataclass field for one of an objective's own numbers, which is then the setting ``objective.NAME``.

    Args:
        default: the method's own value.
        meaning: what it is, for ``--help``.
        bounds: ``least`` and ``most`` (allowed themselves), ``above`` and ``below`` (not).
    """
    return dataclasses.field(default=default, metadata={"range": Range(meaning, **bounds)})


def smoothing() -> Any:
    """The number ``label_smoothing`` of an objective that has a cross-entropy."""
    meaning = "share of every label that is spread over all classes, in the losses' cross-entropies"
    return number(0.0, f"{meaning}; the attack keeps the plain labels, unless attack.smooth_labels", least=0, below=1)


class Objective:
    """A training method: which models it trains, what its attack maximises, and the losses of one batch.

    A subclass is a frozen dataclass whose fields are the method's own numbers: see `number`. One that a package names
    in an entry point of the group ``act_engine.objectives`` is one of the engine's own in all that it does.
    """

    name: ClassVar[str]
    """What the setting ``objective.name`` calls it."""
    label: ClassVar[str]
    """Its customary name, in tables and plots."""
    trains: ClassVar[tuple[str, ...]]
    """Names of the models it trains, out of ``"robust"`` and ``"natural"``."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Names of the models that it needs trained already: none, or ``"teacher"``."""
    attack_losses: ClassVar[tuple[str, ...]]
    """What its attack can maximise, out of ``"kl"``, ``"ce"`` and ``"mixed"``, its own (used where ``attack.loss`` is
    auto) first; none for a method without an attack."""
    attack_start: ClassVar[str] = "gaussian"
    """Its own start of the attack, used where ``attack.start`` is auto."""
    attack_loss: ClassVar[str] = "none"
    """The first of `attack_losses`, from which it follows."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.attack_loss = next(iter(getattr(cls, "attack_losses", ())), "none")

    def __post_init__(self) -> None:
        for name, allowed in number_ranges(type(self)).items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or value not in allowed:
                raise ValueError(f"objective.{name}: got {value!r}; allowed: {allowed}")

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        """Weights (KL, cross-entropy) of the attack's loss, both batch sums.

        Raises:
            ValueError: `loss` is not among those that the method's attack can maximise.
        """
        if loss not in self.attack_losses:
            allowed = ", ".join(("auto", *self.attack_losses))
            raise ValueError(f"attack.loss: got {loss!r}; allowed with objective {self.name}: {allowed}")
        return (1.0, 0.0) if loss == "kl" else (0.0, 1.0)

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        """One scalar loss for each model it trains, by the model's name; computed before any optimizer steps."""
        raise NotImplementedError


def number_ranges(objective: type) -> dict[str, Range]:
    """An objective's own numbers, by name; none where its class is no dataclass."""
    if not dataclasses.is_dataclass(objective):
        return {}
    return {field.name: field.metadata.get("range", Range()) for field in dataclasses.fields(objective)}


def soft_term(logits: Tensor, labels: Labels, label_smoothing: float) -> Tensor | float:
    """What mixed labels and label smoothing add to the batch's mean cross-entropy to the first class; 0 for neither.

    Label smoothing as Szegedy et al. 2016 (arXiv 1512.00567): (1 − s) · labels + s / classes.
    """
    if are_plain(labels, label_smoothing):
        return 0.0
    return (correction(labels, logits, label_smoothing) * logits).sum(1).mean()


def cross_entropy(logits: Tensor, labels: Labels, label_smoothing: float = 0.0) -> Tensor:
    """The batch's mean cross-entropy to plain or mixed labels."""
    target = labels if isinstance(labels, Tensor) else distribution(labels, logits)
    return F.cross_entropy(logits, target, label_smoothing=label_smoothing)


def over_classes(labels: Labels, of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of(classes [B])`, a value an image [B]; with mixed labels that of both, weighted by their shares."""
    if isinstance(labels, Tensor):
        return of(labels)
    share = labels.share
    return share * of(labels.first) + (1 - share) * of(labels.second)
