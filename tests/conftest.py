"""What every test shares."""

import copy
import os
import tempfile

import pytest
import torch

CACHE = tempfile.TemporaryDirectory(prefix="act-engine-cache-")
os.environ["ACT_ENGINE_CACHE"] = CACHE.name  # of commands that tests start too

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, which decides at its import


@pytest.fixture
def tiny_config():
    """Settings of an ACT run on digits that takes a second."""
    return {
        "objective": {"name": "act", "robust_alpha": 0.5, "natural_alpha": 0.5},
        "attack": {"eps": 0.15, "step_size": 0.05, "steps": 2},
        "data": {"name": "digits", "batch_size": 256},
        "optim": {"lr": 0.05, "schedule": "cosine"},
        "train": {"epochs": 2, "seed": 1, "device": "cpu", "log_every": 2},
        "evaluate": {"steps": 3, "restarts": 2, "check_masking": False},
    }


class InFloat64(torch.nn.Module):
    """A model in float64 on images of any dtype.

    Kernels may sum in another order for another batch size, thread count or processor. In float32 that now and then
    turns the sign of a gradient, and with it an iterate; in float64 the chance is 1e9 times smaller: the same images
    fall in any split of a batch, on any machine.
    """

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model).double()

    def forward(self, images):
        return self.model(images.double())


@pytest.fixture(scope="session")
def in_float64():
    """`InFloat64`, for tests that count images."""
    return InFloat64


@pytest.fixture
def seeded():
    """A fixed state of PyTorch's generator."""
    torch.manual_seed(0)


@pytest.fixture
def allocations():
    """A function that runs a call: its result, and what bytes PyTorch's CPU allocator gave (negative: took back)."""

    def run(call):
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
            result = call()
        events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
        return result, [change for _, change in sorted((event.start_ns(), event.nbytes()) for event in events)]

    return run


def pytest_collection_modifyitems(items):
    """Tests marked gpu are passed over where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
