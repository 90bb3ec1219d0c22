"""The Triton backend: GPU kernels compiled at first use, and run on the CPU under TRITON_INTERPRET=1 for the tests."""

import torch


def why_not(op: str, device: str, dtype: torch.dtype) -> str | None:
    """Why Triton cannot run `op` on `device` in `dtype`, or None when it can."""
    return f"no Triton kernel for {op}"
