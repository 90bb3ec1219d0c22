"""LBGAT: learnable boundary guided adversarial training (Cui et al., ICCV 2021, arXiv 2011.11164)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, Objective, number, smoothing
from act_kernels import kl_ce_loss


@dataclass(frozen=True)
class LBGAT(Objective):
    """min MSE(S(x'), T(x)) + CE(T(x), y) + beta · KL(S(x) ‖ S(x')) over the student S and its teacher T, both trained.

    MSE is the mean over all logits, nothing is detached, and x' maximises KL(S(x) ‖ S(x')) as in TRADES. S is the
    robust model, T the natural one. The sum is given in two parts, each with the gradient of its own model alone, so
    the MSE stands in both. The train-mode S(x') comes before S(x).
    """

    beta: float = number(6.0, "weight of the KL term", least=0)
    label_smoothing: float = smoothing()

    name: ClassVar = "lbgat"
    label: ClassVar = "LBGAT"
    trains: ClassVar = ("robust", "natural")
    attack_losses: ClassVar = ("kl", "ce")

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x_adv = attack(images, labels, attack.clean_logits(images))
        adversarial_logits = models["robust"](x_adv)
        clean_logits = models["robust"](images)
        teacher_logits = models["natural"](images)
        kl = kl_ce_loss(adversarial_logits, clean_logits, labels, kl_weight=self.beta, ce_weight=0.0, target_grad=True)
        cross_entropy = F.cross_entropy(teacher_logits, labels, label_smoothing=self.label_smoothing)
        return {
            "robust": F.mse_loss(adversarial_logits, teacher_logits.detach()) + kl,
            "natural": F.mse_loss(teacher_logits, adversarial_logits.detach()) + cross_entropy,
        }
