"""Standard adversarial training (Madry et al. 2018, arXiv 1706.06083)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels
from act_engine.objectives.base import Models, Objective, cross_entropy, smoothing


@dataclass(frozen=True)
class Madry(Objective):
    """min CE(S(x'), y) over the weights, x' maximising CE(S(x'), y) from a uniform start in the ball."""

    label_smoothing: float = smoothing()

    name: ClassVar = "madry"
    label: ClassVar = "adversarial training"
    trains: ClassVar = ("robust",)
    attack_losses: ClassVar = ("ce",)
    attack_start: ClassVar = "uniform"

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        x_adv = attack(images, labels)
        robust_logits = models["robust"](x_adv)
        return {"robust": cross_entropy(robust_logits, labels, self.label_smoothing)}
