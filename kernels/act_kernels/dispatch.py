"""The one place where an op's implementation is chosen.

A backend is a module that has

* one function for each op it implements, named as the op and with the signature of the function of that name in
  `act_kernels.reference` (the specification), and
* `why_not(op, device, dtype) -> str | None`: why it cannot run that op there, or None when it can. `device` is a
  torch.device, `dtype` the widest of the images and the gradient, or of the logits.

A function named in a backend's `CHECKING` looks at its arguments itself and returns None for those that it does not
take: `ops.direct` calls it with a user's own, which then are validated only where it declined.

To add a backend, write such a module and name it in `BACKENDS` and `_AUTOMATIC`. To add an op to a backend, write the
function and let `why_not` return None for it. The caller (`ops.py`) has validated the arguments and brought all images
to one layout and all logits to contiguous rows. Modules are imported on first use, so that importing this package loads
no compiler and probes no device.
"""

import functools
import importlib
import warnings
from collections.abc import Callable
from types import ModuleType

import torch

OPS = ("pgd_step", "random_start", "act_loss", "kl_ce_loss")
BACKENDS = ("reference", "native", "triton")

# Fastest first, as measured in benchmarks/; the automatic choice takes the first that can run.
_AUTOMATIC = {"cpu": ("native", "reference"), "cuda": ("native", "triton", "reference")}

_selected: str | None = None
# What `implementation` found since the last use_backend: the functions, and by (op, on the CPU, device's index) those
# that look at their arguments themselves.
_chosen: dict[tuple, Callable] = {}
checking: dict[tuple[str, bool, int], Callable] = {}


class use_backend:
    """Select every op's implementation: "reference", "native", "triton", or "auto" for the fastest that can run.

    Called as a function it sets the choice for the process; as a context manager (`with use_backend("native"):`) it
    also restores the former choice at the end. A chosen backend that cannot run an op raises a RuntimeError saying why.
    """

    def __init__(self, name: str):
        global _selected
        if name != "auto" and name not in BACKENDS:
            raise ValueError(f"use_backend: unknown backend {name!r}; expected one of {', '.join(BACKENDS)}, auto")
        self._former = _selected
        _selected = None if name == "auto" else name
        _forget()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exception) -> None:
        global _selected
        _selected = self._former
        _forget()


def _forget() -> None:
    _chosen.clear()
    checking.clear()


def _module(backend: str) -> ModuleType:
    return importlib.import_module(f".{backend}", __package__)


def why_not(backend: str, op: str, device: str | torch.device, dtype: torch.dtype) -> str | None:
    """Why `backend` cannot run `op` on a device in a dtype, or None when it can."""
    return _module(backend).why_not(op, torch.device(device), dtype)


@functools.cache
def _tell_once(reason: str) -> None:
    warnings.warn(f"act_kernels: slower kernels run, since {reason}; backends() tells which", stacklevel=2)


def _choose(op: str, device: torch.device, dtype: torch.dtype) -> str:
    """Name of the backend that runs `op`; an explicit choice that cannot run it is a RuntimeError."""
    if _selected is not None:
        reason = why_not(_selected, op, device, dtype)
        if reason is not None:
            raise RuntimeError(f"{op}: backend {_selected!r} was asked for and cannot run: {reason}")
        return _selected
    for backend in _AUTOMATIC.get(device.type, ("reference",)):
        if why_not(backend, op, device, dtype) is None:
            return backend
        if backend == "native" and (reason := _module("native").lacking(device)):
            _tell_once(reason)
    raise AssertionError(f"{op}: the reference runs everywhere")


def implementation(op: str, *tensors: torch.Tensor) -> Callable:
    """The function that runs `op` on these tensors, by the first one's device and the widest dtype."""
    key = (op, tensors[0].device, *(t.dtype for t in tensors))
    if key not in _chosen:
        widest = max(key[2:], key=lambda dtype: dtype.itemsize)
        module = _module(_choose(op, key[1], widest))
        _chosen[key] = getattr(module, op)
        if op in getattr(module, "CHECKING", ()):
            checking[op, tensors[0].is_cpu, tensors[0].get_device()] = _chosen[key]
    return _chosen[key]


def backends() -> dict[str, dict[str, dict[str, str]]]:
    """Tell what can run each op, as {op: {device: {backend: "available" or the reason why not, "automatic": backend}}}.

    The devices are "cpu", and where PyTorch sees GPUs "cuda", the current one, and "cuda:1" and so on for the others.
    Stated for float32; `automatic` names what runs when no
    backend was selected.
    """
    devices = {"cpu": torch.device("cpu")}
    if torch.cuda.is_available():
        current = torch.cuda.current_device()
        devices["cuda"] = torch.device("cuda", current)
        devices |= {f"cuda:{i}": torch.device("cuda", i) for i in range(torch.cuda.device_count()) if i != current}
    report: dict[str, dict[str, dict[str, str]]] = {}
    for op in OPS:
        report[op] = {}
        for name, device in devices.items():
            reasons = {backend: why_not(backend, op, device, torch.float32) for backend in BACKENDS}
            automatic = next(backend for backend in _AUTOMATIC[device.type] if reasons[backend] is None)
            report[op][name] = {backend: reason or "available" for backend, reason in reasons.items()}
            report[op][name]["automatic"] = automatic
    return report
