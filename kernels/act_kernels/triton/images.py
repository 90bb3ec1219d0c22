"""What the image kernels share: finding an element's sample and channel, reading clean images, NaN-keeping clamps."""

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# 1024 elements a program of 4 warps: 8 a thread, so two 16-byte accesses of float32 or one of float16 to each operand.
BLOCK = 1024
WARPS = 4


def on_device(t: Tensor) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, which need not be `t`'s."""
    return torch.cuda.device(t.device) if t.is_cuda else contextlib.nullcontext()


def pair(value: float | Tensor) -> tuple[Tensor | None, float]:
    """(tensor, number) as the kernels take "a number or a tensor": the tensor counts when it is there."""
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)


def channel_geometry(t: Tensor) -> tuple[int, int]:
    """(channels, inner): the element at memory offset i of dense images `t` has channel (i // inner) % channels."""
    channels = t.shape[1] if t.dim() > 1 else 1
    return channels, math.prod(t.shape[2:]) if t.is_contiguous() else 1


def grid_and_width(numel: int) -> tuple[tuple[int], bool]:
    """Programs for one flat pass, and whether offsets need 64 bits (32 keep the index divisions cheap)."""
    return (triton.cdiv(numel, BLOCK),), numel > 2**31 - BLOCK


@triton.jit
def program_offsets(BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Flat offsets of this program's elements."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    return program * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def per_sample(values, number, offsets, mask, sample_size):
    """The sample's value for each element: from `values` [N], or `number` where there is no tensor."""
    if values is None:
        value = number
    else:
        value = tl.load(values + offsets // sample_size, mask)
    return value


@triton.jit
def per_channel(values, number, offsets, mask, inner, channels):
    """The channel's value for each element: from `values` [C], or `number` where there is no tensor."""
    if values is None:
        value = number
    else:
        value = tl.load(values + (offsets // inner) % channels, mask)
    return value


@triton.jit
def load_clean(x, offsets, mask):
    """Clean images in float32; uint8 means x / 255, correctly rounded (a plain `/` is approximate on GPUs)."""
    value = tl.load(x + offsets, mask).to(tl.float32)
    if x.dtype.element_ty == tl.uint8:
        value = tl.math.div_rn(value, tl.full(value.shape, 255.0, tl.float32))
    return value


@triton.jit
def clip(value, low, high):
    """min(max(value, low), high) that keeps NaN, as torch.minimum and torch.maximum do."""
    value = tl.maximum(value, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(value, high, propagate_nan=tl.PropagateNan.ALL)
