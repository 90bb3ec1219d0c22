"""The native backend: the compiled extension `act_kernels._C`, vectorised C++ on the CPU and CUDA on the GPU."""

import importlib

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _load() -> tuple[object | None, str | None]:
    """The extension, or the reason why there is none."""
    try:
        return importlib.import_module("act_kernels._C"), None
    except ModuleNotFoundError:
        return None, "the extension act_kernels._C is not built (pip install --no-build-isolation builds it)"
    except ImportError as error:
        return None, f"the extension act_kernels._C does not load (was it built for another torch?): {error}"


_extension, _reason = _load()


def why_not(op: str, device: str, dtype: torch.dtype) -> str | None:
    """Why the extension cannot run `op` on `device` in `dtype`, or None when it can."""
    if _reason is not None:
        return _reason
    if device == "cuda" and not _extension.with_cuda:
        return "the extension was built without CUDA (ACT_BUILD=cuda builds it)"
    if device not in ("cpu", "cuda"):
        return f"no native kernels for device {device}"
    if dtype not in _DTYPES:
        return f"native kernels compute in float32; {dtype} is the reference's"
    return None


def pgd_step(*arguments) -> None:
    """See `act_kernels.reference.pgd_step`."""
    _extension.pgd_step(*arguments)


def random_start(*arguments) -> None:
    """See `act_kernels.reference.random_start`."""
    _extension.random_start(*arguments)


def act_loss(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `act_kernels.reference.act_loss`."""
    return _extension.act_loss(*arguments)


def kl_ce_loss(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `act_kernels.reference.kl_ce_loss`."""
    return _extension.kl_ce_loss(*arguments)
