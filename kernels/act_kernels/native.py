"""The native backend: vectorised C++ on the CPU and CUDA on the GPU, from the libraries built of csrc/.

The libraries register their kernels as the ops `NAME.native` (see ops.py), through libtorch's stable ABI:
`_cpu.stable.so`, and `_cuda12.stable.so` or `_cuda13.stable.so` for the torch's own version of CUDA. Each is loaded
when it is first asked for.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_FOLDER = Path(__file__).parent
_ops = torch.ops.act_kernels


@functools.cache
def library(device: str) -> ctypes.CDLL | str:
    """The library for a device type ("cpu", "cuda"), loaded; or the reason why there is none."""
    name = "_cpu" if device == "cpu" else f"_cuda{(torch.version.cuda or '').split('.')[0]}"
    path = _FOLDER / f"{name}.stable.so"
    if device not in ("cpu", "cuda"):
        return f"no native kernels for device {device}"
    if device == "cuda" and torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not path.exists():
        return f"the native library {path.name} is not in this build (act-kernels' wheels for Linux have it)"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"the native library {path.name} does not load: {error}"


def why_not(op: str, device: str, dtype: torch.dtype) -> str | None:
    """Why the libraries cannot run `op` on `device` in `dtype`, or None when they can."""
    found = library(device)
    if isinstance(found, str):
        return found
    if dtype not in _DTYPES:
        return f"native kernels compute in float32; {dtype} is the reference's"
    return None


def instruction_set(name: str | None = None) -> str:
    """The CPU kernels' instruction set: "avx512", "avx2" or "baseline"; with a name, choose that one (for tests)."""
    choose = library("cpu").act_instruction_set
    choose.argtypes, choose.restype = (ctypes.c_char_p,), ctypes.c_char_p
    found = choose(None if name is None else name.encode())
    if found is None:
        raise ValueError(f"instruction_set: got {name!r}, which this processor does not have")
    return found.decode()


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
    """See `act_kernels.reference.pgd_step`."""
    _ops.pgd_step.native(
        out, x_adv, grad, x, *_pair(step_size), *_pair(eps), *_pair(lower), *_pair(upper), norm == "l2"
    )


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
    """See `act_kernels.reference.random_start`."""
    _ops.random_start_.native(out, x, key, first, gaussian, *_pair(scale), *_pair(lower), *_pair(upper))


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Tensor,
    robust_alpha: float,
    natural_alpha: float,
    temperature: float,
    grad_scale: float,
    robust_grad: bool,
    natural_grad: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `act_kernels.reference.act_loss`."""
    losses = robust_logits.new_empty(2, dtype=torch.float32)
    grads = _gradients(robust_logits, robust_grad), _gradients(natural_logits, natural_grad)
    _ops.act_loss.native(
        losses, *grads, robust_logits, natural_logits, labels, robust_alpha, natural_alpha, temperature, grad_scale
    )
    return losses, *grads


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    kl_weight: float,
    ce_weight: float,
    target_ce_weight: float,
    temperature: float,
    label_smoothing: float,
    grad_scale: float,
    logits_grad: bool,
    target_grad: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """See `act_kernels.reference.kl_ce_loss`."""
    losses = logits.new_empty(len(labels), dtype=torch.float32)
    grads = _gradients(logits, logits_grad), _gradients(target_logits, target_grad)
    weights = (kl_weight, ce_weight, target_ce_weight, temperature, label_smoothing, grad_scale)
    _ops.kl_ce_loss.native(losses, *grads, logits, target_logits, labels, *weights)
    return losses, *grads


def _pair(value: float | Tensor) -> tuple[Tensor | None, float]:
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)


def _gradients(logits: Tensor, wanted: bool) -> Tensor | None:
    return torch.empty_like(logits) if wanted else None
