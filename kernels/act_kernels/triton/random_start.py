"""Random start of PGD in one pass: reads the noise and the images, writes the start. See act_kernels.reference."""

import triton
import triton.language as tl
from torch import Tensor

from act_kernels.triton import images


def random_start(
    out: Tensor,
    noise: Tensor,
    x: Tensor,
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
            out, noise, x, *images.pair(scale), *images.pair(lower), *images.pair(upper),
            numel, numel // out.shape[0], inner, channels,
            BLOCK=images.BLOCK, WIDE=wide, num_warps=images.WARPS, enable_fp_fusion=False,
        )  # fmt: skip


@triton.jit
def _random_start_kernel(
    out, noise, x, scales, scale, lowers, lower, uppers, upper,
    numel, sample_size, inner, channels,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    offsets = images.program_offsets(BLOCK, WIDE)
    # The mask of a full block would only hide from the compiler that 16-byte accesses are safe.
    if tl.program_id(0) < numel // BLOCK:
        _start_block(
            out, noise, x, scales, scale, lowers, lower, uppers, upper, offsets, None, sample_size, inner, channels
        )
    else:
        _start_block(
            out,
            noise,
            x,
            scales,
            scale,
            lowers,
            lower,
            uppers,
            upper,
            offsets,
            offsets < numel,
            sample_size,
            inner,
            channels,
        )


@triton.jit
def _start_block(
    out, noise, x, scales, scale, lowers, lower, uppers, upper, offsets, mask, sample_size, inner, channels
):  # fmt: skip
    scale = images.per_sample(scales, scale, offsets, mask, sample_size)
    low = images.per_channel(lowers, lower, offsets, mask, inner, channels)
    high = images.per_channel(uppers, upper, offsets, mask, inner, channels)
    moved = images.load_clean(x, offsets, mask) + scale * tl.load(noise + offsets, mask).to(tl.float32)
    tl.store(out + offsets, images.clip(moved, low, high).to(out.dtype.element_ty), mask)
