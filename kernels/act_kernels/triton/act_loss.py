"""Both ACT losses and gradients from one kernel over the rows (see kl_ce_loss.py), a launch for the batch means."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import on_device
from .kl_ce_loss import launch_rows


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Tensor,
    robust_alpha: float,
    natural_alpha: float,
    temperature: float,
    grad_scale: float,
    robust_grad: bool,
    natural_grad: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`act_kernels.reference.act_loss` for float32, float16 and bfloat16."""
    rows = labels.shape[0]
    row_losses = torch.empty(2, rows, dtype=torch.float32, device=labels.device)
    weights = (1 - robust_alpha, robust_alpha, 1 - natural_alpha, natural_alpha, temperature, 0.0, grad_scale)
    grads = launch_rows(row_losses, robust_logits, natural_logits, labels, weights, robust_grad, natural_grad)
    losses = torch.empty(2, dtype=torch.float32, device=labels.device)
    with on_device(losses):
        _mean_kernel[(2,)](losses, row_losses, rows, BLOCK=1024, num_warps=8)
    return losses, *grads


@triton.jit
def _mean_kernel(means, values, length, BLOCK: tl.constexpr):
    """means[i] = mean of values[i, :length], 0 when there are none; one program a mean, so that the order is fixed."""
    which = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, length, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        total += tl.load(values + which.to(tl.int64) * length + index, index < length, other=0.0)
    tl.store(means + which, tl.sum(total, 0) / tl.maximum(length, 1))
