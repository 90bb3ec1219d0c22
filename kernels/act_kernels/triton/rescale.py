"""The losses' backward: one launch for both gradients, which moves nothing where the device finds a factor of 1."""

import triton
import triton.language as tl
from torch import Tensor

from .images import BLOCK, WARPS, on_device


def rescale_(first: Tensor | None, second: Tensor | None, factor: Tensor, scale: float) -> None:
    """`act_kernels.reference.rescale_` for float32, float16 and bfloat16."""
    grad = second if first is None else first
    numel = grad.numel()
    if numel == 0:
        return
    with on_device(grad):
        _rescale_kernel[(triton.cdiv(numel, BLOCK), 2)](
            first, second, factor, scale, numel, BLOCK=BLOCK, num_warps=WARPS
        )


@triton.jit
def _rescale_kernel(first, second, factor, scale, numel, BLOCK: tl.constexpr):
    by = tl.load(factor) * scale
    if by != 1.0:
        offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < numel
        if tl.program_id(1) == 0:
            if first is not None:
                _rescale(first, by, offsets, mask)
        else:
            if second is not None:
                _rescale(second, by, offsets, mask)


@triton.jit
def _rescale(grad, by, offsets, mask):
    value = tl.load(grad + offsets, mask).to(tl.float32)
    tl.store(grad + offsets, (by * value).to(grad.dtype.element_ty), mask)
