"""The CUDA kernels' own code run on the CPU, as a backend: tests of csrc/cuda where there is no GPU.

`build` compiles csrc/cuda against the small stand-in for CUDA's runtime in this folder; `Emulated` has the functions of a
backend. What it cannot show: speed, races between threads, and memory ordering.
"""

import ctypes
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

_HERE = Path(__file__).resolve().parent
_CSRC = _HERE.parents[2] / "csrc"
_FLAGS = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-Wno-unknown-pragmas"]
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}


def _plain_cpp(cuda: str) -> str:
    """The two constructs that no header can give to a C++ compiler: launches, and shared memory sized at launch."""
    cuda = re.sub(
        r"(\w+(?:<[\w, ]+>)?)\s*<<<(.+?)>>>\((.+?)\);",
        r"cuda_on_cpu::launch([=] { \1(\3); }, \2);",
        cuda,
        flags=re.DOTALL,
    )
    declaration = "extern __shared__ __align__(16) unsigned char shared[];"
    return cuda.replace(declaration, "unsigned char* shared = cuda_on_cpu::dynamic_shared();")


def build(folder: Path, *flags: str) -> Path:
    """Compile the kernels into a shared library in `folder`."""
    objects = []
    commands = []
    for source in [*sorted((_CSRC / "cuda").glob("*.cu")), _HERE / "entry.cpp"]:
        translated = folder / f"{source.stem}.cpp"
        translated.write_text(_plain_cpp(source.read_text()))
        objects.append(folder / f"{source.stem}.o")
        include = [f"-I{_HERE}", f"-I{_CSRC}", f"-I{_CSRC / 'cuda'}"]
        commands.append(["c++", *_FLAGS, *flags, *include, "-c", str(translated), "-o", str(objects[-1])])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(_run, commands))
    library = folder / "cuda_on_cpu.so"
    _run(["c++", "-shared", *flags, *map(str, objects), "-o", str(library)])
    return library


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


class _ImageStep(ctypes.Structure):
    """act::ImageStep of csrc/arguments.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("out", "x_adv", "grad", "x")),
        *((name, ctypes.c_int) for name in ("dtype", "grad_dtype", "x_dtype")),
        *((f"{name}{suffix}", kind)
          for name in ("step", "eps", "lower", "upper")
          for suffix, kind in (("s", ctypes.c_void_p), ("", ctypes.c_float))),
        *((name, ctypes.c_int64) for name in ("samples", "sample_size", "channels", "inner")),
    )  # fmt: skip


class _PairLoss(ctypes.Structure):
    """act::PairLoss of csrc/arguments.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("z", "t", "labels")),
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

    def set_device(self, processors: int = 2, shared_memory: int = 227 * 1024, capturing: bool = False) -> None:
        """Shape of the GPU: few processors make blocks loop over rows, little shared memory makes rows wide."""
        self._library.set_device(processors, shared_memory, ctypes.c_bool(capturing))

    def why_not(self, op: str, device: str, dtype: torch.dtype) -> str | None:
        return None if dtype in _DTYPES else "the CUDA kernels compute in float32"

    def pgd_step(self, out, x_adv, grad, x, step_size, eps, lower, upper, norm) -> None:
        if out.numel():
            step = _image_step(out, x_adv, grad, x, step_size, eps, lower, upper)
            _check(getattr(self._library, f"{norm}_step")(ctypes.byref(step)))

    def random_start(self, out, noise, x, scale, lower, upper) -> None:
        if out.numel():
            _check(
                self._library.random_start(ctypes.byref(_image_step(out, noise, noise, x, scale, 0.0, lower, upper)))
            )

    def act_loss(
        self, robust, natural, labels, robust_alpha, natural_alpha, temperature, grad_scale, robust_grad, natural_grad
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        grads = [
            torch.empty_like(z) if wanted else None for z, wanted in ((robust, robust_grad), (natural, natural_grad))
        ]
        means = torch.zeros(2)
        if len(labels):
            loss = _pair_loss(robust, natural, labels, temperature, grad_scale, grads)
            loss.ce_z, loss.kl_z, loss.ce_t, loss.kl_t = (
                1 - robust_alpha,
                robust_alpha,
                1 - natural_alpha,
                natural_alpha,
            )
            _check(self._library.pair_loss(ctypes.byref(loss), ctypes.c_void_p(means.data_ptr())))
        return means, *grads

    def kl_ce_loss(
        self, logits, target, labels, kl_weight, ce_weight, target_ce_weight, temperature, label_smoothing, grad_scale,
        logits_grad, target_grad,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        grads = [
            torch.empty_like(z) if wanted else None for z, wanted in ((logits, logits_grad), (target, target_grad))
        ]
        losses = torch.empty(len(labels))
        if len(labels):
            loss = _pair_loss(logits, target, labels, temperature, grad_scale, grads)
            loss.joint, loss.loss_z = True, losses.data_ptr()
            loss.ce_z, loss.kl_z, loss.ce_t, loss.label_smoothing = (
                ce_weight,
                kl_weight,
                target_ce_weight,
                label_smoothing,
            )
            _check(self._library.pair_loss(ctypes.byref(loss), None))
        return losses, *grads


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


def _pair_loss(z, t, labels, temperature, grad_scale, grads) -> _PairLoss:
    loss = _PairLoss(z=z.data_ptr(), t=t.data_ptr(), labels=labels.data_ptr(), dtype=_DTYPES[z.dtype])
    loss.rows, loss.classes = z.shape
    loss.temperature, loss.grad_scale = temperature, grad_scale
    loss.grad_z, loss.grad_t = (None if grad is None else grad.data_ptr() for grad in grads)
    return loss


def _check(error: int) -> None:
    assert error == 0, f"the launch failed with CUDA error {error}"
