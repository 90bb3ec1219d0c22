"""Random start of PGD: the arithmetic; the noise comes from PyTorch's generator."""

import torch
from torch import Tensor

from act_kernels.reference.pgd_step import per_channel, per_sample


def random_start(
    out: Tensor,
    noise: Tensor,
    x: Tensor,
    scale: float | Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
) -> None:
    """Write clamp(x + scale · noise, lower, upper) into `out` (which may be `noise`), in float32, rounded once.

    Layouts, dtypes, uint8 `x`, `lower` and `upper` as in `pgd_step`; `scale` is a number or one value a sample [N].
    """
    dtype = torch.float64 if noise.dtype == torch.float64 else torch.float32
    scale = per_sample(scale, x, dtype)
    lower, upper = per_channel(lower, x, dtype), per_channel(upper, x, dtype)
    x = x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)
    moved = x + scale * noise.to(dtype)
    out.copy_(torch.minimum(torch.maximum(moved, lower), upper))
