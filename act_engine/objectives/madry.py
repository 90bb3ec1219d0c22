"""Standard adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, single_term_weights


@dataclass(frozen=True)
class Madry:
    """min CE(S(x'), y) over the weights, x' maximising CE(S(x'), y) from a uniform start in the ball."""

    label_smoothing: float = 0.0

    trains: ClassVar = ("robust",)
    frozen: ClassVar = ()
    attack_start: ClassVar = "uniform"
    attack_loss: ClassVar = "ce"

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        return single_term_weights(loss, ("ce",), "madry")

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x_adv = attack(images, labels)
        robust_logits = models["robust"](x_adv)
        return {"robust": F.cross_entropy(robust_logits, labels, label_smoothing=self.label_smoothing)}
