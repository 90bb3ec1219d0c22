"""A repair of Triton's interpreter for the tests."""

import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def round_bfloat16() -> None:
    """Round float32 to the nearest bfloat16, as GPUs do: the interpreter of Triton 3.7 cuts the lower bits off."""
    truncating = InterpreterBuilder.cast_impl

    def cast(self, source, dtype):
        if source.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
            return truncating(self, source, dtype)
        rounded = torch.tensor(source.data).to(torch.bfloat16)
        return TensorHandle(rounded.view(torch.uint16).numpy(), tl.bfloat16)

    InterpreterBuilder.cast_impl = cast
