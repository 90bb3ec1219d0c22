"""PGD step (Madry et al., arXiv 1706.06083): ascend along the gradient, project onto the eps-ball, clamp."""

import torch
from torch import Tensor


def pgd_step(
    out: Tensor,
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
    norm: str,
) -> None:
    """Write one step into `out` (which may be `x_adv`), computed in float32 (float64 for float64 images), rounded once.

    linf: clamp(clip(x_adv + step_size · sign(grad), x − eps, x + eps), lower, upper), with sign(0) = sign(NaN) = 0.
    l2:   d = x_adv + step_size · grad / ‖grad‖ − x;  clamp(x + d · min(1, eps / ‖d‖), lower, upper), with norms per
          sample, accumulated in float64, and grad / ‖grad‖ = 0 where ‖grad‖ = 0.

    All images have one shape [N, ...] and one memory layout (contiguous or channels_last); uint8 `x` means x / 255.
    `step_size` and `eps` are numbers or [N], `lower` and `upper` numbers or [C]; tensors are in the computing dtype.
    """
    dtype = torch.float64 if x_adv.dtype == torch.float64 else torch.float32
    step_size, eps = per_sample(step_size, x, dtype), per_sample(eps, x, dtype)
    lower, upper = per_channel(lower, x, dtype), per_channel(upper, x, dtype)
    x = x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)
    if norm == "linf":
        moved = x_adv.to(dtype) + step_size * grad.sign().to(dtype)
        projected = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    else:
        length = sample_norm(grad)
        unit = torch.where(length != 0, grad.to(torch.float64) / length, 0.0).to(dtype)
        delta = x_adv.to(dtype) + step_size * unit - x
        length = sample_norm(delta)
        projected = x + delta * torch.where(length > eps, eps / length, 1.0).to(dtype)
    out.copy_(torch.minimum(torch.maximum(projected, lower), upper))


def per_sample(value: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` (a number or [N]) as a tensor that broadcasts over the samples of `x`."""
    return _broadcast(value, (-1,) + (1,) * (x.dim() - 1), x, dtype)


def per_channel(value: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` (a number or [C]) as a tensor that broadcasts over the channels of `x`."""
    return _broadcast(value, (1, -1) + (1,) * (x.dim() - 2), x, dtype)


def _broadcast(value: float | Tensor, shape: tuple[int, ...], x: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(value, Tensor):
        return value.reshape(shape)
    return torch.full((), value, dtype=dtype, device=x.device)


def sample_norm(t: Tensor) -> Tensor:
    """l2 norm of each sample, broadcastable; in float64, so that gradients of 1e-25 neither vanish nor overflow."""
    t = t.unsqueeze(-1)  # so that a batch of single values has a dimension to reduce
    return torch.linalg.vector_norm(t, dim=tuple(range(1, t.dim())), keepdim=True, dtype=torch.float64).squeeze(-1)
