"""What a training step must not do: wait for the device, compute parameter gradients in the attack, touch BatchNorm."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.training.trainer import Trainer

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "unique")


class Calls(TorchDispatchMode):
    """Notes every operator that runs: its name, and for a convolution's backward which gradients it computes."""

    def __init__(self):
        super().__init__()
        self.names, self.convolution_masks = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names.append(name)
        if name == "convolution_backward":
            self.convolution_masks.append(args[-1])
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["act", "trades", "madry"])
def trainer(request, tiny_config, tmp_path):
    return Trainer(from_mapping({**tiny_config, "objective": {"name": request.param}}), tmp_path / "run")


def test_a_step_never_waits_for_the_device(trainer):
    images, labels = next(trainer.data.train.epoch(0))
    trainer.train_step(images, labels)
    with Calls() as calls:
        trainer.train_step(images, labels)
    assert len(calls.names) > 100
    assert [name for name in calls.names if any(name.startswith(wait) for wait in WAITS)] == []


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu(tiny_config, tmp_path):
    settings = {**tiny_config, "train": {**tiny_config["train"], "device": "cuda"}}
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    images, labels = next(trainer.data.train.epoch(0))
    for _ in range(3):
        trainer.train_step(images, labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(images, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_attack_computes_input_gradients_only_and_leaves_batchnorm(trainer, monkeypatch):
    images, labels = next(trainer.data.train.epoch(0))
    trainer.train_step(images, labels)
    state = trainer.learners["robust"].module.state_dict()
    seen, views = [], []
    call = Attack.__call__

    def watched(*arguments):
        views.append(arguments[0].view)
        before = {key: value.clone() for key, value in state.items()}
        with Calls() as calls:
            x_adv = call(*arguments)
        assert all(torch.equal(value, before[key]) for key, value in state.items())
        assert all(parameter.grad is None for parameter in trainer.learners["robust"].module.parameters())
        seen.append(calls)
        return x_adv

    monkeypatch.setattr(Attack, "__call__", watched)
    trainer.train_step(images, labels)
    (calls,) = seen
    assert len(calls.convolution_masks) == 3 * trainer.config.attack.steps
    assert all(mask == [True, False, False] for mask in calls.convolution_masks)
    assert not any("batch_norm" in name for name in calls.names)  # folded away
    assert (views[0].why_live, views[0].generation) == (None, 1)  # training gives no reason for a new copy
