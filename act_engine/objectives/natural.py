"""Natural training: no attack, plain cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, Objective, smoothing


@dataclass(frozen=True)
class Natural(Objective):
    """The natural model F alone, minimising CE(F(x), y)."""

    label_smoothing: float = smoothing()

    name: ClassVar = "natural"
    label: ClassVar = "natural training"
    trains: ClassVar = ("natural",)
    attack_losses: ClassVar = ()
    attack_start: ClassVar = "none"

    def losses(self, models: Models, attack: Attack | None, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        natural_logits = models["natural"](images)
        return {"natural": F.cross_entropy(natural_logits, labels, label_smoothing=self.label_smoothing)}
