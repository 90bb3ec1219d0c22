"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack
from act_engine.objectives.base import Models, single_term_weights, smoothing_term
from act_kernels import trades_loss


@dataclass(frozen=True)
class Trades:
    """min CE(S(x), y) + beta · KL(S(x) ‖ S(x')), gradient to both sides; x' maximises the KL with S(x) detached.

    The attack's S(x) is the eval-mode output, computed once; the loss has its own train-mode S(x), before S(x').
    """

    beta: float = 6.0
    label_smoothing: float = 0.0

    trains: ClassVar = ("robust",)
    frozen: ClassVar = ()
    attack_start: ClassVar = "gaussian"
    attack_loss: ClassVar = "kl"

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        return single_term_weights(loss, ("kl", "ce"), "trades")

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x_adv = attack(images, labels, attack.clean_logits(images))
        natural_logits = models["robust"](images)
        adversarial_logits = models["robust"](x_adv)
        loss = trades_loss(natural_logits, adversarial_logits, labels, beta=self.beta)
        if self.label_smoothing:
            loss = loss + smoothing_term(natural_logits, labels, self.label_smoothing)
        return {"robust": loss}
