"""The whole attack as an object, for trainers that want one: ``PGD(8 / 255, 2 / 255, 10)(model, images, labels)``."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import attack_grad
from .steps import pgd_step, random_start


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on the cross-entropy (Madry et al., arXiv 1706.06083), with the fused kernels.

    Args:
        eps, step_size: in the images' units; eps is the radius of the ball.
        steps: iterations.
        norm: ``"linf"`` or ``"l2"``.
        random_start: begin at a random place in the ball; False: at the image.
        lower, upper: the images' range; a number, or one value a channel [C] for images that are normalised already.
    """

    eps: float
    step_size: float
    steps: int
    norm: str = "linf"
    random_start: bool = True
    lower: float | Tensor = 0.0
    upper: float | Tensor = 1.0

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial images, detached, for float `images` [N, ...].

        The model is called as it is, and gives logits [N, C]: put it into eval mode before, or hand over an
        ``act_engine.AttackView`` of it, which is a frozen and faster copy. Its parameters get no gradient. `labels` are
        classes, int64 [N], or distributions, float [N, C], as MixUp and CutMix give them.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        box = {"norm": self.norm, "lower": self.lower, "upper": self.upper}
        x_adv = random_start(images, self.eps, generator=generator, **box) if self.random_start else images
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = x_adv.detach().requires_grad_()
                logits = model(leaf)
            (gradient,) = torch.autograd.grad(logits, leaf, _ascent(logits.detach(), labels))
            x_adv = pgd_step(x_adv, gradient, images, self.step_size, self.eps, **box)
        return x_adv.detach()


def _ascent(logits: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the summed cross-entropy with respect to the logits [N, C]."""
    if labels.is_floating_point():
        return logits.softmax(1) * labels.sum(1, keepdim=True) - labels
    return attack_grad(logits, logits, labels, kl_weight=0.0, ce_weight=1.0)
