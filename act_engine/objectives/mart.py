"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, Objective, number, smoothing
from act_kernels import kl_ce_loss


@dataclass(frozen=True)
class Mart(Objective):
    """min CE(S(x'), y) − log(1.0001 − max over k≠y of S_k(x')) + beta · mean[KL(S(x) ‖ S(x')) · (1 − S_y(x))].

    S(x) are probabilities, and the gradient goes through all of them; x' maximises CE(S(x'), y). The train-mode S(x)
    comes before S(x'). Label smoothing is of the cross-entropy alone.
    """

    beta: float = number(5.0, "weight of the KL term", least=0)
    label_smoothing: float = smoothing()

    name: ClassVar = "mart"
    label: ClassVar = "MART"
    trains: ClassVar = ("robust",)
    attack_losses: ClassVar = ("ce",)

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x_adv = attack(images, labels)
        natural_logits = models["robust"](images)
        adversarial_logits = models["robust"](x_adv)
        cross_entropy = F.cross_entropy(adversarial_logits, labels, label_smoothing=self.label_smoothing)
        column = labels.unsqueeze(1)
        wrong = adversarial_logits.softmax(1).scatter(1, column, 0.0).amax(1)
        margin = -(1.0001 - wrong).log().mean()
        kl = kl_ce_loss(
            adversarial_logits,
            natural_logits,
            labels,
            kl_weight=1.0,
            ce_weight=0.0,
            target_grad=True,
            reduction="none",
        )
        unsure = 1 - natural_logits.softmax(1).gather(1, column).squeeze(1)
        return {"robust": cross_entropy + margin + self.beta * (kl * unsure).mean()}
