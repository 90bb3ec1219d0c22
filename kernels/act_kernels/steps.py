"""The public functions on images: one PGD step, and the attack's random start."""

import torch
from torch import Tensor

from . import checks, ops
from .build_record import torch_ops
from .reference.pgd_step import sample_norm

_NORMS = ("linf", "l2")
_KINDS = ("uniform", "gaussian")


def pgd_step(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: float | Tensor,
    eps: float | Tensor,
    *,
    norm: str = "linf",
    lower: float | Tensor = 0.0,
    upper: float | Tensor = 1.0,
    inplace: bool = False,
) -> Tensor:
    """One step of projected gradient ascent (Madry et al., arXiv 1706.06083), in one pass over the images.

    linf: x_adv + step_size · sign(grad), projected onto [x − eps, x + eps], clamped to [lower, upper]; sign(0) = 0.
    l2: the gradient normalised per sample (a zero gradient moves nothing), the result projected onto the l2 ball of
    radius eps around x, then clamped. A negative step_size descends: a targeted attack.

    Args:
        x_adv: images [N, ...] or [N, C, ...], float32, float16, bfloat16 (or float64).
        grad: gradient of the attack's loss to x_adv, same shape, any of these dtypes.
        x: clean images, same shape, x_adv's dtype or uint8 (meaning x / 255).
        step_size, eps: in the images' units; a number, or a tensor of one value a sample [N]; eps >= 0.
        lower, upper: valid range of the images; a number, or a tensor of one value a channel [C].
        inplace: write into x_adv and return it; it must not share memory with x or grad.

    Returns the new images in x_adv's dtype and layout, without autograd history: computed in float32 (float64 for
    float64 images) and rounded once. NaN in x_adv or x gives NaN. A NaN in the gradient
    counts as 0 for linf (as torch.sign has it) and makes its whole sample NaN for l2.
    Contiguous and channels_last operands of one layout are read as they are; any other operand is first copied to
    x_adv's layout. Raises ValueError or TypeError naming the argument; a negative eps inside a GPU tensor is not
    looked for, since that would stop the host.
    """
    run = ops.direct("pgd_step", x_adv, grad, x)
    if run is not None and norm in _NORMS and _is_plain(step_size) and _is_plain(eps):
        out = x_adv if inplace else torch.empty_like(x_adv)
        if run(out, x_adv, grad, x, step_size, eps, lower, upper, norm):
            if inplace:
                torch.autograd.graph.increment_version(x_adv)
            return out
    if grad is None:
        raise TypeError("grad: expected the gradient of the loss to x_adv, got None (was x_adv part of the graph?)")
    checks.choice("norm", norm, _NORMS)
    checks.float_tensor("x_adv", x_adv)
    checks.float_tensor("grad", grad)
    if x_adv.dim() < 1:
        raise ValueError("x_adv: expected a batch of images [N, ...], got a tensor without dimensions")
    checks.same_place("grad", grad, "x_adv", x_adv)
    checks.clean_images(x, x_adv)
    checks.not_negative("eps", eps)
    arguments = (
        *checks.number_or_tensor("step_size", step_size, x_adv.shape[0], "sample", x_adv),
        *checks.number_or_tensor("eps", eps, x_adv.shape[0], "sample", x_adv),
        *_bounds(lower, upper, x_adv),
        norm,
    )
    images = (x_adv.detach(), grad.detach(), x.detach())
    if ops.eager(x_adv):
        if not inplace:
            return ops.pgd_step(*images, *arguments)
        ops.pgd_step_inplace(*images, *arguments)
        torch.autograd.graph.increment_version(x_adv)
        return x_adv
    if not inplace:
        return torch_ops.pgd_step(*images, *arguments)
    torch_ops.pgd_step_(*images, *arguments)
    return x_adv


def random_start(
    x: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "linf",
    kind: str = "uniform",
    sigma: float = 0.001,
    lower: float | Tensor = 0.0,
    upper: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    first: int = 0,
) -> Tensor:
    """Starting point of an attack: x plus random noise.

    uniform: uniform in the linf or l2 ball of radius eps around x, clamped to [lower, upper].
    gaussian: x + sigma · N(0, 1), neither projected nor clamped, as TRADES (arXiv 1901.08573) and ACT start; the first
    `pgd_step` projects. `eps` and the bounds are not used.

    Args:
        x: clean images [N, ...] or [N, C, ...], float32, float16, bfloat16 (or float64), or uint8 (meaning x / 255).
        eps: radius in the images' units; a number, or a tensor of one value a sample [N]; eps >= 0.
        sigma: standard deviation of the Gaussian noise, in the images' units, >= 0.
        lower, upper: valid range of the images; a number, or a tensor of one value a channel [C].
        generator: gives the noise's key, one draw of 64 bits; on x's device; PyTorch's default when None.
        first: number of x's first image in a whole that may be split, >= 0.

    Returns new images in x's dtype (float32 for uint8) and layout, without autograd history. The noise is a function of
    the key, the image's number and the element's place in the image's memory alone (Philox4x32-10): every backend gives
    the same, and so does any split of a batch under one key. (The l2 ball's, whose lengths are sums, to rounding.)
    Errors as in `pgd_step`.
    """
    checks.choice("norm", norm, _NORMS)
    checks.choice("kind", kind, _KINDS)
    checks.not_negative("eps", eps)
    checks.not_negative("sigma", sigma)
    checks.not_negative("first", first)
    if x.dtype != torch.uint8:
        checks.float_tensor("x (unless it is uint8)", x)
    if x.dim() < 1:
        raise ValueError("x: expected a batch of images [N, ...], got a tensor without dimensions")
    x = x.detach()
    start = torch.empty_like(x, dtype=torch.float32 if x.dtype == torch.uint8 else x.dtype)
    key = torch.randint(-(2**63), 2**63 - 1, (1,), device=x.device, generator=generator)
    if kind == "gaussian":
        scale, bounds = (None, float(sigma)), (None, -torch.inf, None, torch.inf)
    else:
        scale, bounds = checks.number_or_tensor("eps", eps, x.shape[0], "sample", start), _bounds(lower, upper, start)
        if norm == "l2":
            scale = (_l2_radius(start, key, first, scale), 0.0)
    gaussian = kind == "gaussian" or norm == "l2"
    torch_ops.random_start_(start, x, key, first, gaussian, *scale, *bounds)
    return start


def _l2_radius(images: Tensor, key: Tensor, first: int, eps: tuple[Tensor | None, float]) -> Tensor:
    """Factor [N] that takes Gaussian noise to uniform in the ball: eps · U^(1/d) / ‖noise‖ in d dimensions."""
    samples, dtype = images.shape[0], torch.float64 if images.dtype == torch.float64 else torch.float32
    dimensions = max(images[0].numel() if samples else 1, 1)
    noise = torch.zeros_like(images, dtype=dtype)
    torch_ops.random_start_(noise, noise.clone(), key, first, True, None, 1.0, None, -torch.inf, None, torch.inf)
    length = sample_norm(noise).flatten().to(dtype).clamp_min(torch.finfo(dtype).tiny)
    uniform = torch.empty(samples, 1, dtype=dtype, device=images.device)  # of another key, so of other words
    half = torch.full_like(uniform, 0.5)
    torch_ops.random_start_(uniform, half, ~key, first, False, None, 0.5, None, 0.0, None, 1.0)
    return (eps[1] if eps[0] is None else eps[0]) * uniform.flatten() ** (1 / dimensions) / length


def _is_plain(value: float | Tensor) -> bool:
    """Whether the op can take the value as it is: a number of float32's range, or ±inf."""
    return type(value) in (float, int) and not checks.LARGEST < abs(value) < torch.inf


def _bounds(
    lower: float | Tensor, upper: float | Tensor, images: Tensor
) -> tuple[Tensor | None, float, Tensor | None, float]:
    channels = images.shape[1] if images.dim() > 1 else None
    low = checks.number_or_tensor("lower", lower, channels, "channel", images)
    high = checks.number_or_tensor("upper", upper, channels, "channel", images)
    if low[0] is None and high[0] is None and low[1] > high[1]:
        raise ValueError(f"lower: expected a value <= upper, {high[1]}, got {low[1]}")
    return (*low, *high)
