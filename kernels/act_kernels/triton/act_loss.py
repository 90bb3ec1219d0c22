"""Both ACT losses and gradients from one kernel over the rows (see kl_ce_loss.py), a launch for the batch means."""

import torch
from torch import Tensor

from ..reference.kl_ce_loss import MEAN
from .kl_ce_loss import launch_rows, reduced


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Tensor | None,
    other_labels: Tensor | None,
    shares: Tensor | None,
    robust_alpha: float,
    natural_alpha: float,
    temperature: float,
    grad_scale: float,
    robust_grad: bool,
    natural_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`act_kernels.reference.act_loss` for float32, float16 and bfloat16."""
    losses = torch.empty(2, robust_logits.shape[0], dtype=torch.float32, device=robust_logits.device)
    weights = (1 - robust_alpha, robust_alpha, 1 - natural_alpha, natural_alpha, temperature, 0.0, grad_scale)
    target = (labels, other_labels, shares)
    grads = launch_rows(losses, robust_logits, natural_logits, target, weights, robust_grad, natural_grad)
    return *reduced(losses, MEAN), *grads
