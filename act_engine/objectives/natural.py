"""Natural training: no attack, plain cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels
from act_engine.objectives.base import Models, Objective, cross_entropy, smoothing


@dataclass(frozen=True)
class Natural(Objective):
    """The natural model F alone, minimising CE(F(x), y)."""

    label_smoothing: float = smoothing()

    name: ClassVar = "natural"
    label: ClassVar = "natural training"
    trains: ClassVar = ("natural",)
    attack_losses: ClassVar = ()
    attack_start: ClassVar = "none"

    def losses(self, models: Models, attack: Attack | None, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        natural_logits = models["natural"](images)
        return {"natural": cross_entropy(natural_logits, labels, self.label_smoothing)}
