"""A model trained without keeping its activations: the same gradients and statistics, in less memory."""

import copy
import functools

import pytest
import torch
from torch import nn

from act_engine.learners import Learner, check_strategy
from act_engine.models import build_model


def learner(model, **options):
    return Learner(copy.deepcopy(model), lr_at=lambda step: 0.1, **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_are_the_same_to_the_bit_dropout_and_batchnorm_included(precision, seeded):
    model = nn.Sequential(build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)), nn.Dropout(0.5))
    pair = learner(model, precision=precision), learner(model, precision=precision, recompute=True)
    for step in range(3):
        images = torch.rand(16, 1, 8, 8)
        for one in pair:
            torch.manual_seed(step)
            one.backward(one(images).logsumexp(1).sum())
            one.step()
    for name, value in pair[0].module.state_dict().items():
        assert torch.equal(pair[1].module.state_dict()[name], value), name
    assert pair[1].module[0].state_dict().keys() == model[0].state_dict().keys()


def test_activations_are_not_kept(seeded, allocations):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    images = torch.rand(64, 1, 8, 8)
    held = {}
    for recompute in (False, True):
        one = learner(model, recompute=recompute)
        logits, changes = allocations(functools.partial(one, images))
        assert logits.requires_grad
        held[recompute] = sum(changes)
    assert held[True] < held[False] / 20


@pytest.mark.parametrize(
    ("strategy", "sync_batchnorm", "named"),
    [("deepspeed", False, "parallel.strategy deepspeed"), ("ddp", True, "parallel.sync_batchnorm true")],
)
def test_what_it_does_not_go_with_is_refused(strategy, sync_batchnorm, named):
    with pytest.raises(ValueError, match=rf"train\.recompute_natural: got true with {named}; allowed: false"):
        check_strategy(
            strategy,
            device_type="cuda",
            precision="float32",
            sync_batchnorm=sync_batchnorm,
            deepspeed_config=None,
            recompute_natural=True,
        )
