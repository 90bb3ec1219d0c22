"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels, first_class
from act_engine.objectives.base import Models, Objective, number, smoothing, soft_term
from act_kernels import trades_loss


@dataclass(frozen=True)
class Trades(Objective):
    """min CE(S(x), y) + beta · KL(S(x) ‖ S(x')), gradient to both sides; x' maximises the KL with S(x) detached.

    The attack's S(x) is the eval-mode output, computed once; the loss has its own train-mode S(x), before S(x').
    """

    beta: float = number(6.0, "weight of the KL term", least=0)
    label_smoothing: float = smoothing()

    name: ClassVar = "trades"
    label: ClassVar = "TRADES"
    trains: ClassVar = ("robust",)
    attack_losses: ClassVar = ("kl", "ce")

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        x_adv = attack(images, labels, attack.clean_logits(images))
        natural_logits = models["robust"](images)
        adversarial_logits = models["robust"](x_adv)
        loss = trades_loss(natural_logits, adversarial_logits, first_class(labels), beta=self.beta)
        return {"robust": loss + soft_term(natural_logits, labels, self.label_smoothing)}
