"""LBGAT: learnable boundary guided adversarial training (Cui et al., ICCV 2021, arXiv 2011.11164)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack, Labels, first_class
from act_engine.objectives.base import Models, Objective, cross_entropy, number, smoothing
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

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        x_adv = attack(images, labels, attack.clean_logits(images))
        adversarial_logits = models["robust"](x_adv)
        clean_logits = models["robust"](images)
        classes = first_class(labels)  # of weight 0
        teacher_logits = models["natural"](images)
        kl = kl_ce_loss(adversarial_logits, clean_logits, classes, kl_weight=self.beta, ce_weight=0.0, target_grad=True)
        to_labels = cross_entropy(teacher_logits, labels, self.label_smoothing)
        return {
            "robust": F.mse_loss(adversarial_logits, teacher_logits.detach()) + kl,
            "natural": F.mse_loss(teacher_logits, adversarial_logits.detach()) + to_labels,
        }
