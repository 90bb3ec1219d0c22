"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083): the loop, for any model and logit gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from act_engine.attack.frozen import frozen_eval
from act_engine.attack.start import first_iterate
from act_kernels import attack_grad, pgd_step


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
        model: images to logits [B, classes]; frozen and in eval mode (`frozen_eval`).
        x: clean images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255.
        x_start: the first iterate, float, same shape; not modified.
        logit_grad: logits to the gradient of the attack's loss with respect to them.
        steps: iterations.
        step_size, eps: in [0, 1] pixel units.
        norm: ``"linf"`` or ``"l2"``.
    """
    x_adv = x_start
    for _ in range(steps):
        _, gradient = input_gradient(model, x_adv, logit_grad)
        x_adv = pgd_step(x_adv, gradient, x, step_size, eps, norm=norm)
    return x_adv


def input_gradient(
    model: Callable[[Tensor], Tensor], x_adv: Tensor, logit_grad: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits [B, classes] at `x_adv`, and the gradient [B, C, H, W] of the loss that `logit_grad` belongs to."""
    leaf = x_adv.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits, leaf, logit_grad(logits.detach()))
    return logits.detach(), gradient


class Attack:
    """The inner maximisation of a training step: PGD on one model towards one mix of KL and cross-entropy.

    Args:
        model: the attacked model, as its train-mode module.
        forward: the same model as a function of images, with the precision of the training.
        kl_weight: weight of KL(softmax(target_logits) ‖ softmax(model(x'))), summed over the batch.
        ce_weight: weight of the cross-entropy to the labels, summed over the batch.
        start: ``"gaussian"`` (x + 0.001 · N(0, 1), not projected), ``"uniform"`` in the ball, or ``"none"``.
        steps, step_size, eps, norm: as `pgd`.
        generator: source of the start's noise, on the images' device; its seed decides: reseed it for every batch.
        total: images in the whole batch, of which a call sees a run from `position` on; None: each call sees all.
        whole: entered around every use of the model, for a model whose parameters are not always all there.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        *,
        kl_weight: float,
        ce_weight: float,
        start: str,
        steps: int,
        step_size: float,
        eps: float,
        norm: str = "linf",
        generator: torch.Generator,
        total: int | None = None,
        whole: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.forward = model, forward
        self.total, self.position, self.whole = total, 0, whole
        self.kl_weight, self.ce_weight = kl_weight, ce_weight
        self.start, self.generator = start, generator
        self.settings = {"steps": steps, "step_size": step_size, "eps": eps, "norm": norm}

    def clean_logits(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of the attacked model on clean images, in eval mode and without a graph."""
        with self.whole(), frozen_eval(self.model), torch.no_grad():
            return self.forward(x)

    def __call__(self, x: Tensor, labels: Tensor, target_logits: Tensor | None = None) -> Tensor:
        """Adversarial images for clean images `x` [B, C, H, W]; `target_logits` [B, classes] if the KL has weight."""
        if target_logits is None and self.kl_weight:
            raise ValueError("target_logits: the attack maximises a KL term and needs the target's logits; got None")
        target = None if target_logits is None else target_logits.detach()

        def logit_grad(logits: Tensor) -> Tensor:
            other = logits if target is None else target
            return attack_grad(logits, other, labels, kl_weight=self.kl_weight, ce_weight=self.ce_weight)

        x_start = first_iterate(
            x,
            self.settings["eps"],
            self.settings["norm"],
            self.start,
            self.generator,
            first=self.position,
            total=self.total,
        )
        with self.whole(), frozen_eval(self.model):
            return pgd(self.forward, x, x_start, logit_grad, **self.settings)
