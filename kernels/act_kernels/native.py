"""The native backend: the compiled extension `act_kernels._C`, vectorised C++ on the CPU and CUDA on the GPU."""

import torch


def why_not(op: str, device: str, dtype: torch.dtype) -> str | None:
    """Why the compiled extension cannot run `op` on `device` in `dtype`, or None when it can."""
    return "the extension act_kernels._C is not built (build it with pip install --no-build-isolation -e .)"
