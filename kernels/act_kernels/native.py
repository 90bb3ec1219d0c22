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
from .reference.kl_ce_loss import NO_LOSS, ONE_A_ROW

CHECKING = ("pgd_step", "act_loss", "kl_ce_loss")
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
) -> bool:
    """See `act_kernels.reference.pgd_step`; whether the kernel took the arguments."""
    return torch_ops.pgd_step.native(
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
    labels: Tensor | None,
    other_labels: Tensor | None,
    shares: Tensor | None,
    robust_alpha: float,
    natural_alpha: float,
    temperature: float,
    grad_scale: float,
    robust_grad: bool,
    natural_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None:
    """See `act_kernels.reference.act_loss`; None where the kernel did not take the arguments."""
    results = (
        robust_logits.new_empty((), dtype=torch.float32),
        robust_logits.new_empty((), dtype=torch.float32),
        torch.empty_like(robust_logits) if robust_grad else None,
        torch.empty_like(natural_logits) if natural_grad else None,
    )
    numbers = (robust_alpha, natural_alpha, temperature, grad_scale)
    taken = torch_ops.act_loss.native(*results, robust_logits, natural_logits, labels, other_labels, shares, *numbers)
    return results if taken else None


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor | None,
    other_labels: Tensor | None,
    shares: Tensor | None,
    kl_weight: float,
    ce_weight: float,
    target_ce_weight: float,
    temperature: float,
    label_smoothing: float,
    grad_scale: float,
    reduction: int,
    logits_grad: bool,
    target_grad: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """See `act_kernels.reference.kl_ce_loss`; None where the kernel did not take the arguments."""
    losses = None
    if reduction != NO_LOSS:
        losses = logits.new_empty(logits.shape[:1] if reduction == ONE_A_ROW else (), dtype=torch.float32)
    results = (
        losses,
        torch.empty_like(logits) if logits_grad else None,
        torch.empty_like(target_logits) if target_grad else None,
    )
    numbers = (kl_weight, ce_weight, target_ce_weight, temperature, label_smoothing, grad_scale, reduction)
    taken = torch_ops.kl_ce_loss.native(*results, logits, target_logits, labels, other_labels, shares, *numbers)
    return results if taken else None


def rescale_(first: Tensor | None, second: Tensor | None, factor: Tensor, scale: float) -> None:
    """See `act_kernels.reference.rescale_`; CUDA alone."""
    torch_ops.rescale_.native(first, second, factor, scale)


def _pair(value: float | Tensor) -> tuple[Tensor | None, float]:
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)
