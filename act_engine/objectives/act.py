"""Adversarial Concurrent Training (Arani, Sarfraz and Zonooz, BMVC 2020, arXiv 2008.07015)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels, first_class
from act_engine.objectives.base import Models, Objective, number, smoothing, soft_term
from act_kernels import act_loss


@dataclass(frozen=True)
class ACT(Objective):
    """A robust model G and a natural model F, trained together, each towards the labels and the other's output.

    robust:  (1 − a_G) · CE(G(x'), y) + a_G · T² · KL(F^T(x) ‖ G^T(x')), F(x) detached
    natural: (1 − a_F) · CE(F(x), y)  + a_F · T² · KL(G^T(x') ‖ F^T(x)), G(x') detached
    x' maximises KL(F(x) ‖ G(x')) at T = 1, F(x) being the train-mode output that the losses use too.

    ``attack.loss: mixed`` is the attack as released: the cross-entropy is a batch mean there and the KL a batch sum, so
    the weights a sample are (1 − a_G) / B and a_G.
    """

    robust_alpha: float = number(
        0.9, "weight of the KL term in the robust model's loss; cross-entropy has the rest", least=0, most=1
    )
    natural_alpha: float = number(0.9, "weight of the KL term in the natural model's loss", least=0, most=1)
    temperature: float = number(4.0, "temperature of both KL terms, which are scaled by its square", above=0)
    label_smoothing: float = smoothing()

    name: ClassVar = "act"
    label: ClassVar = "ACT"
    trains: ClassVar = ("robust", "natural")
    attack_losses: ClassVar = ("kl", "ce", "mixed")

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        if loss == "mixed":
            return self.robust_alpha, (1 - self.robust_alpha) / batch_size
        return super().attack_weights(loss, batch_size)

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        natural_logits = models["natural"](images)
        x_adv = attack(images, labels, natural_logits)
        robust_logits = models["robust"](x_adv)
        loss = act_loss(
            robust_logits,
            natural_logits,
            first_class(labels),
            robust_alpha=self.robust_alpha,
            natural_alpha=self.natural_alpha,
            temperature=self.temperature,
        )
        robust, natural = loss
        robust_soft = (1 - self.robust_alpha) * soft_term(robust_logits, labels, self.label_smoothing)
        natural_soft = (1 - self.natural_alpha) * soft_term(natural_logits, labels, self.label_smoothing)
        return {"robust": robust + robust_soft, "natural": natural + natural_soft}
