"""Every way to run a kernel, for tests to parametrise over, and what hypothesis draws for all of them."""

import contextlib
from collections.abc import Iterator

import cuda_on_cpu
import pytest
import torch
from hypothesis import strategies as st

from act_kernels import dispatch, native, use_backend
from act_kernels.dispatch import why_not

needs_native = pytest.mark.skipif(isinstance(native.library("cpu"), str), reason=str(native.library("cpu")))


class Variant:
    """A backend on a device, for tests of one op.

    `simulated`: the kernels run in an interpreter, right but slow; large tensors prove nothing more there.
    """

    def __init__(self, backend: str, device: str, instruction_set: str | None = None):
        self.backend, self.device, self.instruction_set = backend, device, instruction_set
        self.simulated = (backend, device) == ("triton", "cpu")

    @contextlib.contextmanager
    def active(self, op: str, dtype: torch.dtype = torch.float32) -> Iterator[None]:
        """Select this variant; skip the test, with the reason, where it cannot run `op`."""
        reason = why_not(self.backend, op, self.device, dtype)
        if reason is not None:
            pytest.skip(reason)
        if self.instruction_set is None:
            with use_backend(self.backend):
                yield
            return
        former = native.instruction_set()
        try:
            native.instruction_set(self.instruction_set)
        except ValueError as error:
            pytest.skip(str(error))
        try:
            with use_backend(self.backend):
                yield
        finally:
            native.instruction_set(former)


class EmulatedCuda(Variant):
    """The CUDA kernels' code run on the CPU, in the native backend's place; `device` as in Emulated.set_device."""

    def __init__(self, **device):
        super().__init__("native", "cpu")
        self.simulated = True
        self._gpu = device

    @contextlib.contextmanager
    def active(self, op: str, dtype: torch.dtype = torch.float32) -> Iterator[None]:
        emulated = cuda_on_cpu.emulated()
        emulated.set_device(**self._gpu)
        reason = emulated.why_not(op, "cpu", dtype)
        if reason is not None:
            pytest.skip(reason)
        with pytest.MonkeyPatch.context() as patch, use_backend("native"):
            module = dispatch._module
            patch.setattr(dispatch, "_module", lambda name: emulated if name == "native" else module(name))
            yield


def every_variant(function):
    """Parametrise a test over all variants, those on a GPU marked `gpu`."""
    parameters = [pytest.param(Variant("reference", "cpu"), id="reference")]
    for instruction_set in ("baseline", "avx2", "avx512"):
        parameters.append(pytest.param(Variant("native", "cpu", instruction_set), id=f"native-{instruction_set}"))
    parameters.append(pytest.param(Variant("triton", "cpu"), id="triton-interpreted"))
    parameters.append(pytest.param(EmulatedCuda(), id="cuda-emulated"))
    tight = EmulatedCuda(shared_memory=0)  # no room for wide rows on chip
    parameters.append(pytest.param(tight, id="cuda-emulated-tight"))
    gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
    for backend in ("reference", "native", "triton"):
        parameters.append(pytest.param(Variant(backend, "cuda"), id=f"{backend}-cuda", marks=gpu))
    return pytest.mark.parametrize("variant", parameters)(function)


LAYOUTS = ("contiguous", "channels_last", "transposed", "offset", "strided")


def relayout(t: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in another memory layout (unchanged where the layout needs more dimensions)."""
    if layout == "channels_last" and t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    if layout == "transposed" and t.dim() >= 2:
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":  # starts at an odd element of its storage, so that vectors are not aligned
        return torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape)
    if layout == "strided" and t.dim() >= 1:
        return t.repeat_interleave(2, dim=-1)[..., ::2]
    return t.contiguous()


SIZES = st.sampled_from((0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 31))
IMAGE_SHAPES = st.one_of(
    st.tuples(SIZES),
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(0, 5), st.sampled_from((1, 2, 3, 4, 19)), SIZES, SIZES),
    st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9)),
)
FLOATS = st.sampled_from((torch.float32, torch.float16, torch.bfloat16))
SEEDS = st.integers(0, 2**32 - 1)
