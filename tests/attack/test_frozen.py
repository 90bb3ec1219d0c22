"""The attack leaves the model as it was: flags, BatchNorm buffers and gradients, also when it raises half-way."""

import copy

import pytest
import torch

from act_engine.attack import Attack, AttackView, LiveView, frozen_model
from act_engine.models import build_model


@pytest.fixture
def model(seeded):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    model.features[1].eval()  # a model that is partly in eval mode must come back so
    model.fc.bias.requires_grad_(False)
    return model


def make_attack(view):
    generator = torch.Generator().manual_seed(0)
    settings = {"steps": 3, "step_size": 0.05, "eps": 0.15}
    return Attack(view, kl_weight=1.0, ce_weight=0.0, start="gaussian", generator=generator, **settings)


def snapshot(model):
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return copy.deepcopy((modes, flags, dict(model.state_dict()), gradients))


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[1] == after[1]
    for name, value in before[2].items():
        assert torch.equal(value, after[2][name]), name
    for name, gradient in before[3].items():
        assert (gradient is None) == (after[3][name] is None), name
        assert gradient is None or torch.equal(gradient, after[3][name]), name


class HalfWay(Exception):
    pass


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("kind", ["live", "view"])
def test_attack_leaves_no_trace(model, kind, raises, with_gradients):
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    if with_gradients:
        model(images).sum().backward()
    calls = []

    def watch(module, inputs):
        calls.append(module.training)
        if raises and len(calls) == 2:
            raise HalfWay

    view = LiveView(model, model) if kind == "live" else AttackView(model)
    before = snapshot(model)
    watched = (model if kind == "live" else view.module).register_forward_pre_hook(watch)
    attack = make_attack(view)
    target = torch.randn(8, 10)
    if raises:
        with pytest.raises(HalfWay):
            attack(images, labels, target)
    else:
        x_adv = attack(images, labels, target)
        assert not x_adv.requires_grad
        assert 0 < (x_adv - images).abs().max() <= 0.15 + 1e-6
    assert calls
    assert not any(calls)
    watched.remove()
    assert_same(before, snapshot(model))


def test_frozen_model_has_no_parameter_gradient(model):
    with frozen_model(model):
        x = torch.rand(2, 1, 8, 8, requires_grad=True)
        model(x).sum().backward()
        assert x.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_kl_attack_without_target_is_refused(model):
    with pytest.raises(ValueError, match="target_logits"):
        make_attack(LiveView(model, model))(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))
