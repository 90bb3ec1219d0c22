"""Natural training: no attack, plain cross-entropy."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, single_term_weights


@dataclass(frozen=True)
class Natural:
    """The natural model F alone, minimising CE(F(x), y)."""

    label_smoothing: float = 0.0

    trains: ClassVar = ("natural",)
    frozen: ClassVar = ()
    attack_start: ClassVar = "none"
    attack_loss: ClassVar = "none"

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        return single_term_weights(loss, (), "natural")

    def losses(self, models: Models, attack: Attack | None, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        natural_logits = models["natural"](images)
        return {"natural": F.cross_entropy(natural_logits, labels, label_smoothing=self.label_smoothing)}
