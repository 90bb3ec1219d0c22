"""The Triton backend: GPU kernels compiled at first use, and run on the CPU under TRITON_INTERPRET=1 for the tests.

Every launch configuration is a fixed function of the sizes, stated in its file: autotuning could choose differently on
each rank, and so round differently. Nothing here synchronises, reads a device value on the host or allocates other than
through PyTorch, so each op can be captured in a CUDA graph (after one call that compiles it).
"""

import importlib.util

import torch

_INSTALLED = importlib.util.find_spec("triton") is not None
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

if _INSTALLED:
    from .act_loss import act_loss
    from .kl_ce_loss import kl_ce_loss
    from .pgd_step import pgd_step
    from .random_start import random_start
    from .rescale import rescale_

    __all__ = ["act_loss", "kl_ce_loss", "pgd_step", "random_start", "rescale_", "why_not"]


def why_not(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot run `op` on `device` in `dtype`, or None when it can."""
    if not _INSTALLED:
        return "triton: not installed (pip install triton)"
    if dtype not in _DTYPES:
        return f"triton: the kernels compute in float32, and {dtype} would lose precision"
    if device.type != "cuda" and not _interpreted():
        return (
            f"triton: the tensor is on the {device.type} (TRITON_INTERPRET=1 runs the kernels there, slowly, for tests)"
        )
    return None


def _interpreted() -> bool:
    """Whether the kernels were defined under TRITON_INTERPRET=1."""
    from triton import JITFunction  # the interpreter's own module needs NumPy, which torch and triton do without

    from .images import load_clean

    return not isinstance(load_clean, JITFunction)
