"""Random start of PGD in one pass: reads the images, makes the noise, writes the start. See act_kernels.reference."""

import triton
import triton.language as tl
from torch import Tensor

from . import images


def random_start(
    out: Tensor,
    x: Tensor,
    key: Tensor,
    first: int,
    gaussian: bool,
    scale: float | Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
) -> None:
    """`act_kernels.reference.random_start` for float32, float16 and bfloat16."""
    numel = out.numel()
    if numel == 0:
        return
    grid, wide = images.grid_and_width(numel)
    channels, inner = images.channel_geometry(out)
    with images.on_device(out):
        _random_start_kernel[grid](
            out, x, key, first, *images.pair(scale), *images.pair(lower), *images.pair(upper),
            numel, numel // out.shape[0], inner, channels,
            GAUSSIAN=gaussian, BLOCK=images.BLOCK, WIDE=wide, num_warps=images.WARPS, enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def _random_start_kernel(
    out, x, key, first, scales, scale, lowers, lower, uppers, upper,
    numel, sample_size, inner, channels,
    GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    offsets = images.program_offsets(BLOCK, WIDE)
    # The mask of a full block would only hide from the compiler that 16-byte accesses are safe.
    if tl.program_id(0) < numel // BLOCK:
        _start_block(
            out, x, key, first, scales, scale, lowers, lower, uppers, upper,
            offsets, None, sample_size, inner, channels, GAUSSIAN,
        )  # fmt: skip
    else:
        _start_block(
            out, x, key, first, scales, scale, lowers, lower, uppers, upper,
            offsets, offsets < numel, sample_size, inner, channels, GAUSSIAN,
        )  # fmt: skip


@triton.jit
def _start_block(
    out, x, key, first, scales, scale, lowers, lower, uppers, upper,
    offsets, mask, sample_size, inner, channels, GAUSSIAN: tl.constexpr,
):  # fmt: skip
    scale = images.per_sample(scales, scale, offsets, mask, sample_size)
    low = images.per_channel(lowers, lower, offsets, mask, inner, channels)
    high = images.per_channel(uppers, upper, offsets, mask, inner, channels)
    image = offsets // sample_size
    element = offsets - image * sample_size
    noise = _noise(tl.load(key), first + image.to(tl.int64), element, GAUSSIAN)
    moved = images.load_clean(x, offsets, mask) + scale * noise
    tl.store(out + offsets, images.clip(moved, low, high).to(out.dtype.element_ty), mask)


@triton.jit
def _noise(key, image, element, GAUSSIAN: tl.constexpr):
    """Each element's noise: word e mod 4 of the words at the counter (e div 4, image)."""
    counter = (element // 4).to(tl.int64)
    a, b, c, d = tl.philox(
        key,
        _low(counter),
        _low(counter >> 32),
        _low(image),
        _low(image >> 32),
    )
    which = element % 4
    word = tl.where(which < 2, tl.where(which == 0, a, b), tl.where(which == 2, c, d))
    steps = (word >> 8).to(tl.int32).to(tl.float32)
    if GAUSSIAN:
        noise = _normal(steps)
    else:
        noise = steps * 1.1920928955078125e-07 - 1.0  # 2^-23
    return noise


@triton.jit
def _low(v):
    return (v & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _normal(steps):
    """The specification's quantile, in its very order of operations."""
    q = (steps - 8388608.0 + 0.5) * 5.9604644775390625e-08  # 2^23, 2^-24
    size = tl.abs(q)
    r = 0.180625 - q * q
    over = ((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
    under = ((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1.0
    centre = tl.math.div_rn(q * over, under)
    s = tl.math.sqrt_rn(-_log(0.5 - size)) - 1.6
    over = ((0.17023821103 * s + 1.3067284816) * s + 2.7568153900) * s + 1.4234372777
    under = (0.12021132975 * s + 0.73700164250) * s + 1.0
    tail = tl.math.div_rn(over, under)
    return tl.where(size <= 0.425, centre, tl.where(q < 0, -tail, tail))


@triton.jit
def _log(v):
    bits = v.to(tl.int32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    small = m < 0.70710678
    e = ((bits >> 23) - 126 - small.to(tl.int32)).to(tl.float32)
    m = tl.where(small, m + m, m) - 1.0
    square = m * m
    y = 7.0376836292e-2 * m - 1.1514610310e-1
    y = y * m + 1.1676998740e-1
    y = y * m - 1.2420140846e-1
    y = y * m + 1.4249322787e-1
    y = y * m - 1.6668057665e-1
    y = y * m + 2.0000714765e-1
    y = y * m - 2.4999993993e-1
    y = y * m + 3.3333331174e-1
    y = y * m * square + e * -2.12194440e-4 - 0.5 * square
    return (m + y) + e * 0.693359375
