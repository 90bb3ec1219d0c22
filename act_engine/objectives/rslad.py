"""RSLAD: robust soft-label adversarial distillation (Zi et al., ICCV 2021, arXiv 2108.07969)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels, first_class
from act_engine.objectives.base import Models, Objective
from act_kernels import kl_ce_loss


@dataclass(frozen=True)
class RSLAD(Objective):
    """min 5/6 · KL(T(x) ‖ S(x')) + 1/6 · KL(T(x) ‖ S(x)), T a frozen robust teacher in eval mode; no label is used.

    x' maximises KL(T(x) ‖ S(x')). The train-mode S(x') comes before S(x).
    """

    name: ClassVar = "rslad"
    label: ClassVar = "RSLAD"
    trains: ClassVar = ("robust",)
    frozen: ClassVar = ("teacher",)
    attack_losses: ClassVar = ("kl", "ce")

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        target = models["teacher"](images)
        x_adv = attack(images, labels, target)
        classes = first_class(labels)  # of weight 0
        adversarial = kl_ce_loss(models["robust"](x_adv), target, classes, kl_weight=5 / 6, ce_weight=0.0)
        clean = kl_ce_loss(models["robust"](images), target, classes, kl_weight=1 / 6, ce_weight=0.0)
        return {"robust": adversarial + clean}
