"""MART: misclassification-aware adversarial training (Wang et al., ICLR 2020)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from act_engine.attack import Attack, Labels, first_class
from act_engine.objectives.base import Models, Objective, cross_entropy, number, over_classes, smoothing
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

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        x_adv = attack(images, labels)
        natural_logits = models["robust"](images)
        adversarial_logits = models["robust"](x_adv)
        to_labels = cross_entropy(adversarial_logits, labels, self.label_smoothing)
        adversarial, natural = adversarial_logits.softmax(1), natural_logits.softmax(1)
        margin = over_classes(labels, lambda y: -(1.0001 - adversarial.scatter(1, y[:, None], 0.0).amax(1)).log())
        kl = kl_ce_loss(
            adversarial_logits,
            natural_logits,
            first_class(labels),
            kl_weight=1.0,
            ce_weight=0.0,
            target_grad=True,
            reduction="none",
        )
        unsure = 1 - over_classes(labels, lambda y: natural.gather(1, y[:, None]).squeeze(1))
        return {"robust": to_labels + margin.mean() + self.beta * (kl * unsure).mean()}
