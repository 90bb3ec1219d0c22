"""The native backend: vectorised C++ on the CPU and CUDA on the GPU, from the libraries built of csrc/.

The libraries register their kernels as the ops `NAME.native` (see ops.py), through libtorch's stable ABI:
`_cpu.stable.so`, and `_cuda12.stable.so` or `_cuda13.stable.so` for the torch's own version of CUDA. Each is loaded
when it is first asked for.
"""

import ctypes
import functools
import re

import torch
from torch import Tensor

from .build_record import FOLDER, torch_ops, why_left_out

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def library(device: str) -> ctypes.CDLL | str:
    """The library for a device type ("cpu", "cuda"), loaded; or the reason why there is none."""
    name = "_cpu" if device == "cpu" else f"_cuda{(torch.version.cuda or '').split('.')[0]}"
    path = FOLDER / f"{name}.stable.so"
    if device not in ("cpu", "cuda"):
        return f"no native kernels for device {device}"
    if device == "cuda" and torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not path.exists():
        return f"the native library {path.name} is not in this build: {why_left_out(name)}"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"the native library {path.name} does not load: {error}"


def capability(device: torch.device) -> tuple[int, int]:
    """The GPU's compute capability."""
    return torch.cuda.get_device_capability(device)


def _has_code(architectures: str, device: tuple[int, int]) -> bool:
    """Whether code for `architectures` ("8.0;9.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on the same major version from its minor version on, PTX on whatever is newer; what is built for
    "9.0a" runs on 9.0 alone.
    """
    for number, special, ptx in re.findall(r"(\d+\.\d+)([a-z]?)(\+PTX)?", architectures):
        major, minor = (int(part) for part in number.split("."))
        if (major, minor) == device or (
            not special and ((major == device[0] and minor < device[1]) or (ptx and (major, minor) < device))
        ):
            return True
    return False


@functools.cache
def lacking(device: torch.device) -> str | None:
    """Why no native kernel runs on this device, or None."""
    found = library(device.type)
    if isinstance(found, str) or device.type == "cpu":
        return found if isinstance(found, str) else None
    found.act_architectures.restype = ctypes.c_char_p
    architectures, (major, minor) = found.act_architectures().decode(), capability(device)
    if not _has_code(architectures, (major, minor)):
        return f"the native library has no code for compute capability {major}.{minor} (it has {architectures})"
    return None


def why_not(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the libraries cannot run `op` on `device` in `dtype`, or None when they can."""
    reason = lacking(device)
    if reason is not None:
        return reason
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
    torch_ops.pgd_step.native(
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
    torch_ops.random_start_.native(out, x, key, first, gaussian, *_pair(scale), *_pair(lower), *_pair(upper))


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
    torch_ops.act_loss.native(
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
    torch_ops.kl_ce_loss.native(losses, *grads, logits, target_logits, labels, *weights)
    return losses, *grads


def _pair(value: float | Tensor) -> tuple[Tensor | None, float]:
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)


def _gradients(logits: Tensor, wanted: bool) -> Tensor | None:
    return torch.empty_like(logits) if wanted else None
