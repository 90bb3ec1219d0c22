"""The CUDA kernels' own code run on the CPU, as a backend: tests of csrc/cuda where there is no GPU.

`build` compiles csrc/cuda against the small stand-in for CUDA's runtime in this folder; `Emulated` has the functions of
a backend. What it cannot show: speed, races between threads, and memory ordering.
"""

import ctypes
import functools
import hashlib
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from act_kernels.reference.kl_ce_loss import MEAN, NO_LOSS, ONE_A_ROW

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[2]
_CSRC = _ROOT / "csrc"
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-Wno-unknown-pragmas"]
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}


def _plain_cpp(cuda: str) -> str:
    """The two constructs that no header can give to a C++ compiler: launches, and shared memory sized at launch."""
    launch = re.compile(r"(\w+(?:<[\w, ]+>)?)\s*<<<(.+?)>>>\((.+?)\);", re.DOTALL)
    cuda = launch.sub(r"cuda_on_cpu::launch([=] { \1(\3); }, \2);", cuda)
    declaration = "extern __shared__ __align__(16) unsigned char shared[];"
    return cuda.replace(declaration, "unsigned char* shared = cuda_on_cpu::dynamic_shared();")


def build(*flags: str) -> Path:
    """Compile the kernels into a shared library under build/, unless one of the same sources and flags is there."""
    kernels = sorted((_CSRC / "cuda").glob("*.cu"))
    sources = [*kernels, *sorted(_CSRC.glob("*.h")), *sorted((_CSRC / "cuda").glob("*.*h")), *sorted(_HERE.iterdir())]
    contents = b"".join(source.read_bytes() for source in sources if source.is_file())
    digest = hashlib.sha256(" ".join((*_FLAGS, *flags)).encode() + contents).hexdigest()[:16]
    folder = _ROOT / "build" / "cuda_on_cpu" / digest
    library = folder / "cuda_on_cpu.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{_HERE}", f"-I{_CSRC}", f"-I{_CSRC / 'cuda'}"]

    def compiled(source: Path) -> Path:
        translated = scratch / f"{source.stem}.cpp"
        translated.write_text(_plain_cpp(source.read_text()))
        target = translated.with_suffix(".o")
        _run(["c++", *_FLAGS, *flags, *includes, "-c", str(translated), "-o", str(target)])
        return target

    # Moved to its place in one go: an interrupted build must not look finished, and several may run at a time.
    with tempfile.TemporaryDirectory(dir=folder) as name, ThreadPoolExecutor(2) as pool:
        scratch = Path(name)
        objects = list(pool.map(compiled, [*kernels, _HERE / "entry.cpp"]))
        finished = scratch / library.name
        _run(["c++", "-shared", *flags, *map(str, objects), "-o", str(finished)])
        return finished.rename(library)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


@functools.cache
def emulated() -> "Emulated":
    """The emulated kernels, built at first use."""
    return Emulated(build())


class _ImageStep(ctypes.Structure):
    """act::ImageStep of csrc/arguments.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("out", "x_adv", "grad", "x")),
        *((name, ctypes.c_int) for name in ("dtype", "grad_dtype", "x_dtype")),
        *((f"{name}{suffix}", kind)
          for name in ("step", "eps", "lower", "upper")
          for suffix, kind in (("s", ctypes.c_void_p), ("", ctypes.c_float))),
        *((name, ctypes.c_int64) for name in ("samples", "sample_size", "channels", "inner")),
        ("key", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("gaussian", ctypes.c_bool),
    )  # fmt: skip


class _PairLoss(ctypes.Structure):
    """act::PairLoss of csrc/arguments.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("z", "t", "labels", "other_labels", "shares", "dense")),
        ("dtype", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("rows", "classes")),
        *((name, ctypes.c_float) for name in ("ce_z", "ce_t", "kl_z", "kl_t", "temperature", "label_smoothing")),
        ("joint", ctypes.c_bool),
        ("grad_scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("grad_z", "grad_t", "loss_z", "loss_t")),
    )


class Emulated:
    """The functions of a backend (see act_kernels.dispatch), run by the emulated kernels on CPU tensors."""

    def __init__(self, library: Path):
        self._library = ctypes.CDLL(str(library))
        self.set_device()

    def set_device(self, shared_memory: int = 227 * 1024) -> None:
        """Bytes of shared memory that a block of the GPU may have: with little, wide rows do not fit."""
        self._library.set_device(shared_memory)

    def why_not(self, op: str, device: str, dtype: torch.dtype) -> str | None:
        return None if dtype in _DTYPES else "the CUDA kernels compute in float32"

    def pgd_step(self, out, x_adv, grad, x, step_size, eps, lower, upper, norm) -> None:
        if out.numel():
            step = _image_step(out, x_adv, grad, x, step_size, eps, lower, upper)
            _check(getattr(self._library, f"{norm}_step")(ctypes.byref(step)))

    def random_start(self, out, x, key, first, gaussian, scale, lower, upper) -> None:
        if out.numel():
            step = _image_step(out, out, out, x, scale, 0.0, lower, upper)
            step.key, step.first, step.gaussian = key.data_ptr(), first, gaussian
            _check(self._library.random_start(ctypes.byref(step)))

    def act_loss(
        self, robust, natural, labels, other_labels, shares, robust_alpha, natural_alpha, temperature, grad_scale,
        robust_grad, natural_grad,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        loss, grads = _pair_loss(
            robust, natural, (labels, other_labels, shares), temperature, grad_scale, robust_grad, natural_grad
        )
        loss.ce_z, loss.kl_z = 1 - robust_alpha, robust_alpha
        loss.ce_t, loss.kl_t = 1 - natural_alpha, natural_alpha
        return *self._losses(loss, 2, 1 / max(len(robust), 1)), *grads

    def kl_ce_loss(
        self, logits, target, labels, other_labels, shares, kl_weight, ce_weight, target_ce_weight, temperature,
        label_smoothing, grad_scale, reduction, logits_grad, target_grad,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        loss, grads = _pair_loss(
            logits, target, (labels, other_labels, shares), temperature, grad_scale, logits_grad, target_grad
        )
        loss.joint, loss.label_smoothing = True, label_smoothing
        loss.kl_z, loss.ce_z, loss.ce_t = kl_weight, ce_weight, target_ce_weight
        if reduction == NO_LOSS:
            _check(self._library.pair_loss(ctypes.byref(loss)))
            return None, *grads
        if reduction == ONE_A_ROW:
            losses = torch.empty(len(logits))
            loss.loss_z = losses.data_ptr()
            _check(self._library.pair_loss(ctypes.byref(loss)))
            return losses, *grads
        return *self._losses(loss, 1, 1 / max(len(logits), 1) if reduction == MEAN else 1.0), *grads

    def _losses(self, loss, count: int, share: float) -> list[Tensor]:
        rows = torch.empty(count, loss.rows)
        loss.loss_z, loss.loss_t = rows[0].data_ptr(), rows[1].data_ptr() if count == 2 else None
        _check(self._library.pair_loss(ctypes.byref(loss)))
        results = [torch.empty(()) for _ in range(count)]
        sums = [*(t.data_ptr() for t in results), None][:2]
        where = (ctypes.c_void_p(p) for p in (loss.loss_z, loss.loss_t, *sums))
        _check(self._library.sums(ctypes.c_int64(loss.rows), ctypes.c_double(share), *where))
        return results

    def rescale_(self, first, second, factor, scale) -> None:
        one = first if first is not None else second
        where = (ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (first, second, factor))
        kind, elements = ctypes.c_int(_DTYPES[one.dtype]), ctypes.c_int64(one.numel())
        _check(self._library.rescale(*where, ctypes.c_float(scale), kind, elements))


def _image_step(out, x_adv, grad, x, *parameters) -> _ImageStep:
    step = _ImageStep(out=out.data_ptr(), x_adv=x_adv.data_ptr(), grad=grad.data_ptr(), x=x.data_ptr())
    step.dtype, step.grad_dtype, step.x_dtype = (_DTYPES[t.dtype] for t in (x_adv, grad, x))
    for name, value in zip(("step", "eps", "lower", "upper"), parameters, strict=True):
        if isinstance(value, Tensor):
            setattr(step, f"{name}s", value.data_ptr())
        else:
            setattr(step, name, value)
    step.samples, step.sample_size = len(x), x.numel() // len(x)
    step.channels = x.shape[1] if x.dim() > 1 else 1
    step.inner = step.sample_size // step.channels if x.is_contiguous() else 1
    return step


def _pair_loss(z, t, target, temperature, grad_scale, z_grad, t_grad):
    names = ("labels", "other_labels", "shares") if target[0] is not None else ("labels", "other_labels", "dense")
    loss = _PairLoss(z=z.data_ptr(), t=t.data_ptr(), dtype=_DTYPES[z.dtype])
    for name, value in zip(names, target, strict=True):
        setattr(loss, name, None if value is None else value.data_ptr())
    loss.rows, loss.classes = z.shape
    loss.temperature, loss.grad_scale = temperature, grad_scale
    grads = torch.empty_like(z) if z_grad else None, torch.empty_like(t) if t_grad else None
    loss.grad_z, loss.grad_t = (None if grad is None else grad.data_ptr() for grad in grads)
    return loss, grads


def _check(error: int) -> None:
    assert error == 0, f"the launch failed with CUDA error {error}"
