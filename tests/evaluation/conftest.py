"""A robust model, trained once."""

import pytest

from act_engine.config import from_mapping
from act_engine.parallel import World
from act_engine.runs.load import load_run
from act_engine.training.trainer import Trainer

MEAN, STD = (0.3,), (0.4,)  # inside the model, which takes images in [0, 1]


@pytest.fixture(scope="session")
def robust_folder(tmp_path_factory):
    """The folder of a run of adversarial training on digits, long enough for PGD to have work to do."""
    config = {
        "objective": {"name": "madry"},
        "attack": {"eps": 0.15, "step_size": 0.06, "steps": 4},
        "data": {"name": "digits", "batch_size": 128},
        "model": {"mean": MEAN, "std": STD},
        "optim": {"lr": 0.1, "schedule": "onecycle"},
        "train": {"epochs": 8, "device": "cpu"},
        "evaluate": {"attack": "none"},
    }
    folder = tmp_path_factory.mktemp("robust") / "run"
    assert Trainer(from_mapping(config), folder).run() == 0
    return folder


@pytest.fixture(scope="session")
def robust_run(robust_folder):
    import torch

    return load_run(robust_folder, World(0, 1, torch.device("cpu"), 60.0))


@pytest.fixture(scope="session")
def images(robust_run):
    """100 test images and their labels."""
    x, y = next(robust_run.data.test.epoch(0))
    return x[:100] / 255 if x.dtype.itemsize == 1 else x[:100], y[:100]
