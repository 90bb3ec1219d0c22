"""Who is measured: every backend at hand, the plain PyTorch baseline, and the baseline compiled."""

from collections.abc import Callable

import pytest
import torch

from act_kernels import use_backend
from act_kernels.dispatch import why_not


def contender(name: str, op: str, device: torch.device, kernel: Callable, baseline: Callable) -> Callable:
    """The function to time: `kernel` under a backend, or `baseline` eager or compiled; skips what cannot run here."""
    if name == "eager":
        return baseline
    if name == "compile":
        torch.compiler.reset()
        return torch.compile(baseline)
    reason = why_not(name, op, device.type, torch.float32)
    if reason is not None:
        pytest.skip(reason)

    def run(*arguments):
        with use_backend(name):
            return kernel(*arguments)

    return run


RUNNERS = ("eager", "compile", "native", "triton")
every_contender = pytest.mark.parametrize("name", [*RUNNERS, "copy"])
