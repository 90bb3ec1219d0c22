"""The architectures: shapes, sizes as published, names, normalisation, traceability."""

from __future__ import annotations

import math

import pytest
import torch

from act_engine.models import Normalize, build_model, model_names


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [("cifar_resnet18", 11_173_962), ("cifar_preact_resnet18", 11_172_170), ("cifar_wrn28_10", 36_479_194)],
)
def test_cifar_networks_have_the_published_number_of_parameters(name: str, published: int):
    with torch.device("meta"):
        assert parameters(build_model(name, num_classes=10, image_shape=(3, 32, 32))) == published


@pytest.mark.parametrize("name", ["small_cnn", "cifar_resnet18", "cifar_preact_resnet18", "cifar_wrn10_1"])
def test_our_networks_are_plain_enough_for_batch_norm_folding(name: str):
    """fx traces them, the traced graph is the same function, and a module may be called twice in one graph."""
    model = build_model(name, num_classes=7, image_shape=(3, 16, 16)).eval()
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    logits = model(images)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images), logits, rtol=0, atol=0)
    (model(images).sum() + model(images).sum()).backward()
    kinds = {type(module) for module in model.modules() if next(module.children(), None) is None}
    assert kinds <= {getattr(torch.nn, kind) for kind in PLAIN_LAYERS}
    assert not any(getattr(module, "inplace", False) for module in model.modules())


PLAIN_LAYERS = ("Conv2d", "BatchNorm2d", "ReLU", "Linear", "AdaptiveAvgPool2d", "Identity", "Sequential")


def test_wide_resnets_are_initialised_as_published():
    torch.manual_seed(0)
    model = build_model("cifar_wrn16_4", num_classes=10, image_shape=(3, 32, 32))
    assert torch.equal(model.fc.bias, torch.zeros(10))
    convolution = model.groups[2][1].conv2
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)


@pytest.mark.parametrize("name", ["cifar_wrn27_10", "cifar_wrn4_10", "cifar_wrn28_0"])
def test_wide_resnets_that_cannot_be(name: str):
    with pytest.raises(ValueError, match=f"model.name: {name}: the depth must be"):
        build_model(name, num_classes=10)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 48, 48)])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_models_take_our_images(name: str, shape: tuple[int, int, int]):
    model = build_model(name, num_classes=5, image_shape=shape).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 5)


def test_normalisation_is_the_first_layer():
    images = torch.rand(2, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model = build_model("small_cnn", num_classes=4, image_shape=(3, 8, 8), mean=mean, std=std).eval()
    assert isinstance(model[0], Normalize)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(model(images), model[1](by_hand))
    assert not any(name.startswith("0.") for name in model.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "model.mean and model.std: give both or neither"),
        ({"mean": (0.5,), "std": (0.5,)}, r"model.mean: got .*; allowed: 3 values"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "model.std: got .*; allowed: 3 positive values"),
        ({"num_classes": 0}, "model.num_classes: got 0; allowed: 1 or more"),
    ],
)
def test_settings_that_cannot_be(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_model("small_cnn", **{"num_classes": 10, "image_shape": (3, 8, 8), **options})


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet5o", "resnet50"), ("cifar_resnet81", "cifar_resnet18"), ("smal_cnn", "small_cnn")]
)
def test_an_unknown_model_gets_the_nearest_names(name: str, nearest: str):
    with pytest.raises(ValueError, match=rf"model\.name: unknown model '{name}'; did you mean .*'{nearest}'"):
        build_model(name, num_classes=10)


def test_without_timm_our_models_still_build_and_others_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert all(build_model(name, num_classes=2, image_shape=(3, 8, 8)) for name in model_names()[:3])
    with pytest.raises(ValueError, match=r'pip install "act-engine\[imagenet\]"'):
        build_model("resnet50", num_classes=10)
