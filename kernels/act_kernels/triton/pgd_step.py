"""PGD step. linf: one pass, three reads, one write. l2: one pass too where a sample fits a program, else two kernels.

l2 of larger samples: the first kernel leaves partial sums of |g|², g·d and |d|², with d = x_adv − x, in float64; the
second adds them in a fixed order and applies the step, knowing the moved length from

    |d + s g/|g||² = |d|² + 2 s (g·d)/|g| + s²

This may cancel, to an error of about 1e-16 (|d| + |s|)² in the square; the length matters only where it exceeds eps, so
its relative error stays below float32's as long as |d| + |s| < 1e4 eps.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import images

# Columns of one l2 program: 4096 elements over 8 warps are 16 a thread; CIFAR's 3072 a sample fit.
_COLUMNS = 4096
_WARPS = 8
# Partial sums a sample; beyond this many tiles a program adds up several.
_MAX_PARTIALS = 256


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
    """`act_kernels.reference.pgd_step` for float32, float16 and bfloat16 images."""
    if out.numel() == 0:
        return
    parameters = (*images.pair(step_size), *images.pair(eps), *images.pair(lower), *images.pair(upper))
    with images.on_device(out):
        (_linf if norm == "linf" else _l2)(out, x_adv, grad, x, *parameters)


def _linf(out: Tensor, *operands) -> None:
    numel = out.numel()
    grid, wide = images.grid_and_width(numel)
    channels, inner = images.channel_geometry(out)
    _linf_kernel[grid](
        out, *operands, numel, numel // out.shape[0], inner, channels,
        BLOCK=images.BLOCK, WIDE=wide, num_warps=images.WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def _l2(out: Tensor, *operands) -> None:
    samples = out.shape[0]
    sample_size = out.numel() // samples
    channels, inner = images.channel_geometry(out)
    columns = min(triton.next_power_of_2(sample_size), _COLUMNS)
    tiles = triton.cdiv(sample_size, columns)
    options = {"COLUMNS": columns, "num_warps": _WARPS, "enable_fp_fusion": False}
    if tiles == 1:
        rows = _COLUMNS // columns
        _l2_whole_kernel[(triton.cdiv(samples, rows),)](
            out, *operands, samples, sample_size, inner, channels, ROWS=rows, **options
        )
        return
    partials = min(tiles, _MAX_PARTIALS)
    sums = torch.empty(samples, 3, partials, dtype=torch.float64, device=out.device)
    options |= {"PARTIALS": triton.next_power_of_2(partials), "WIDE": sample_size > 2**31 - columns}
    _l2_sums_kernel[(samples * partials,)](sums, *operands[:3], sample_size, partials, tiles, **options)
    _l2_apply_kernel[(samples * tiles,)](out, *operands, sums, sample_size, inner, channels, partials, tiles, **options)


@triton.jit
def _linf_kernel(
    out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
    numel, sample_size, inner, channels,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    offsets = images.program_offsets(BLOCK, WIDE)
    # The mask of a full block would only hide from the compiler that 16-byte accesses are safe.
    if tl.program_id(0) < numel // BLOCK:
        _linf_block(
            out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
            offsets, None, sample_size, inner, channels,
        )  # fmt: skip
    else:
        _linf_block(
            out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
            offsets, offsets < numel, sample_size, inner, channels,
        )  # fmt: skip


@triton.jit
def _linf_block(
    out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
    offsets, mask, sample_size, inner, channels,
):  # fmt: skip
    start = tl.load(x_adv + offsets, mask).to(tl.float32)
    slope = tl.load(grad + offsets, mask).to(tl.float32)
    clean = images.load_clean(x, offsets, mask)
    step = images.per_sample(steps, step, offsets, mask, sample_size)
    eps = images.per_sample(epsilons, eps, offsets, mask, sample_size)
    low = images.per_channel(lowers, lower, offsets, mask, inner, channels)
    high = images.per_channel(uppers, upper, offsets, mask, inner, channels)
    sign = (slope > 0).to(tl.float32) - (slope < 0).to(tl.float32)
    moved = images.clip(start + step * sign, clean - eps, clean + eps)
    tl.store(out + offsets, images.clip(moved, low, high).to(out.dtype.element_ty), mask)


@triton.jit
def _l2_whole_kernel(
    out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
    samples, sample_size, inner, channels,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (sample < samples) & (column < sample_size)
    offsets = sample * sample_size + column
    slope = tl.load(grad + offsets, mask, other=0.0).to(tl.float64)
    start = tl.load(x_adv + offsets, mask, other=0.0).to(tl.float32)
    clean = images.load_clean(x, offsets, mask)
    step = images.per_sample(steps, step, sample, sample < samples, 1)
    eps = images.per_sample(epsilons, eps, sample, sample < samples, 1)
    low = images.per_channel(lowers, lower, column, column < sample_size, inner, channels)
    high = images.per_channel(uppers, upper, column, column < sample_size, inner, channels)

    slope_length = tl.sqrt(tl.sum(slope * slope, 1, keep_dims=True))
    delta = _delta(start, slope, clean, step, slope_length)
    wide_delta = tl.where(mask, delta, 0.0).to(tl.float64)
    length = tl.sqrt(tl.sum(wide_delta * wide_delta, 1, keep_dims=True))
    projected = clean + delta * _shrink(length, eps)
    tl.store(out + offsets, images.clip(projected, low, high).to(out.dtype.element_ty), mask)


@triton.jit
def _l2_sums_kernel(
    sums, x_adv, grad, x, sample_size, partials, tiles,
    COLUMNS: tl.constexpr, PARTIALS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    sample, partial = tl.program_id(0) // partials, tl.program_id(0) % partials
    origin = sample.to(tl.int64) * sample_size
    slope_slope = tl.zeros((COLUMNS,), tl.float64)
    slope_delta = tl.zeros((COLUMNS,), tl.float64)
    delta_delta = tl.zeros((COLUMNS,), tl.float64)
    for tile in range(partial, tiles, partials):
        column = _columns(tile, COLUMNS, WIDE)
        mask = column < sample_size
        slope = tl.load(grad + origin + column, mask, other=0.0).to(tl.float64)
        start = tl.load(x_adv + origin + column, mask, other=0.0).to(tl.float64)
        delta = start - images.load_clean(x + origin, column, mask).to(tl.float64)
        delta = tl.where(mask, delta, 0.0)
        slope_slope += slope * slope
        slope_delta += slope * delta
        delta_delta += delta * delta
    target = sums + sample.to(tl.int64) * 3 * partials + partial
    tl.store(target, tl.sum(slope_slope, 0))
    tl.store(target + partials, tl.sum(slope_delta, 0))
    tl.store(target + 2 * partials, tl.sum(delta_delta, 0))


@triton.jit
def _l2_apply_kernel(
    out, x_adv, grad, x, steps, step, epsilons, eps, lowers, lower, uppers, upper,
    sums, sample_size, inner, channels, partials, tiles,
    COLUMNS: tl.constexpr, PARTIALS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    sample, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    origin = sample.to(tl.int64) * sample_size
    step = images.per_sample(steps, step, sample, None, 1)
    eps = images.per_sample(epsilons, eps, sample, None, 1)

    partial = tl.arange(0, PARTIALS)
    source = sums + sample.to(tl.int64) * 3 * partials + partial
    slope_length = tl.sqrt(tl.sum(tl.load(source, partial < partials, other=0.0), 0))
    slope_delta = tl.sum(tl.load(source + partials, partial < partials, other=0.0), 0)
    length_squared = tl.sum(tl.load(source + 2 * partials, partial < partials, other=0.0), 0)
    if slope_length != 0:
        wide_step = tl.zeros((), tl.float64) + step
        length_squared += 2 * wide_step * (slope_delta / slope_length) + wide_step * wide_step
    # A negative square is rounding; a NaN must stay.
    shrink = _shrink(tl.sqrt(tl.where(length_squared < 0, 0.0, length_squared)), eps)

    column = _columns(tile, COLUMNS, WIDE)
    mask = column < sample_size
    start = tl.load(x_adv + origin + column, mask).to(tl.float32)
    slope = tl.load(grad + origin + column, mask).to(tl.float64)
    clean = images.load_clean(x + origin, column, mask)
    low = images.per_channel(lowers, lower, column, mask, inner, channels)
    high = images.per_channel(uppers, upper, column, mask, inner, channels)
    projected = clean + _delta(start, slope, clean, step, slope_length) * shrink
    tl.store(out + origin + column, images.clip(projected, low, high).to(out.dtype.element_ty), mask)


@triton.jit
def _columns(tile, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    if WIDE:
        tile = tile.to(tl.int64)
    return tile * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _delta(start, slope, clean, step, slope_length):
    """start + step · slope / |slope| − clean, with slope and its length in float64, the sum in float32."""
    unit = tl.where(slope_length != 0, slope * (1.0 / slope_length), 0.0).to(tl.float32)
    return start + step * unit - clean


@triton.jit
def _shrink(length, eps):
    """The factor that brings a delta of this length (float64) into the ball."""
    return tl.where(length > eps, eps / length, 1.0).to(tl.float32)
