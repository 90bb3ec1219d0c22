"""Hypothesis's profiles: derandomised unless HYPOTHESIS_PROFILE=explore asks for new draws, and more of them.

Without a GPU the Triton kernels run in Triton's interpreter, which has to be chosen before they are imported.
"""

import importlib.util
import os

import hypothesis
import pytest
import torch

if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
    import triton_interpreter

    triton_interpreter.round_bfloat16()

# A busy machine is no reason to fail: neither a deadline nor a check on how long a draw took.
_PATIENT = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=200, **_PATIENT)
hypothesis.settings.register_profile("few", derandomize=True, max_examples=10, **_PATIENT)  # under compute-sanitizer
hypothesis.settings.register_profile("explore", max_examples=3000, **_PATIENT)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def several_threads():
    """More threads than one for PyTorch's own loops and the native kernels, whatever the run was started with."""
    former = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(former)
