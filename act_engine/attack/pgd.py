"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083): the loop, for any model and logit gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from act_kernels import pgd_step


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    x_start: Tensor,
    logit_grad: Callable[[Tensor], Tensor],
    *,
    steps: int,
    step_size: float,
    eps: float,
    norm: str = "linf",
) -> Tensor:
    """Adversarial images [B, C, H, W] in [0, 1] within `eps` of the clean images `x`.

    Each step moves the iterate along the gradient of a loss. The loss is given by its gradient with respect to the
    logits, so no loss value and no parameter gradient is ever computed.

    Args:
        model: images to logits [B, classes]; frozen and in eval mode (`AttackView`, `LiveView`).
        x: clean images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255.
        x_start: the first iterate, float, same shape; it is overwritten with the result.
        logit_grad: logits to the gradient of the attack's loss with respect to them.
        steps: iterations.
        step_size, eps: in [0, 1] pixel units.
        norm: ``"linf"`` or ``"l2"``.
    """
    for _ in range(steps):
        _, gradient = input_gradient(model, x_start, logit_grad)
        pgd_step(x_start, gradient, x, step_size, eps, norm=norm, inplace=True)
    return x_start


def usual_step_size(eps: float, steps: int) -> float:
    """The length of a PGD step where none is given: 2.5 · eps / steps, which reaches past the ball's edge from within.

    Madry et al. (arXiv 1706.06083) use 2.5 · eps / 100 for 100 steps.
    """
    return 2.5 * eps / steps


def input_gradient(
    model: Callable[[Tensor], Tensor], x_adv: Tensor, logit_grad: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits [B, classes] at `x_adv`, and the gradient [B, C, H, W] of the loss that `logit_grad` belongs to.

    Through a view in float16 each image's gradient is scaled by a positive number of its own, which no step along a
    sign or a unit vector notices: the logits' gradient of a sure image is of the size of what is missing to
    probability 1, and below 6e-8 float16 has only 0.
    """
    with torch.inference_mode(False):
        leaf = (x_adv.clone() if x_adv.is_inference() else x_adv.detach()).requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
        direction = logit_grad(logits.detach())
        if getattr(model, "dtype", None) is torch.float16:
            direction = direction / direction.abs().amax(1, keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
        (gradient,) = torch.autograd.grad(logits, leaf, direction)
    return logits.detach(), gradient
