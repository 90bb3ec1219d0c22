"""ConvStem, in the layout of Singh, Croce and Hein's published weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_engine.models import build_model


def stem_layers(stem: nn.Module) -> list[tuple[int, ...]]:
    """(out, in, size, stride) of each convolution."""
    convs = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    return [(conv.out_channels, conv.in_channels, conv.kernel_size[0], conv.stride[0]) for conv in convs]


PUBLISHED = {  # RobustBench's convstem_models.py
    "convnext_small": [(48, 3, 3, 2), (96, 48, 3, 2)],
    "convnext_base": [(64, 3, 3, 2), (96, 64, 3, 2), (128, 96, 3, 1)],
    "convnext_large": [(96, 3, 3, 2), (144, 96, 3, 2), (192, 144, 3, 1)],
    "deit_small_patch16_224": [(48, 3, 3, 2), (96, 48, 3, 2), (192, 96, 3, 2), (384, 192, 3, 2), (384, 384, 1, 1)],
    "vit_base_patch16_224": [(48, 3, 3, 2), (96, 48, 3, 2), (192, 96, 3, 2), (384, 192, 3, 2), (768, 384, 1, 1)],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_stems(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=1000, options={"conv_stem": True})
        assert model(torch.empty(1, 3, 224, 224)).shape == (1, 1000)
    stem = model.stem if name.startswith("convnext") else model.patch_embed.proj
    assert stem_layers(stem) == PUBLISHED[name]
    count = len(PUBLISHED[name])
    plain = 0 if name.startswith("convnext") else 1  # the 1x1 convolution has no norm behind it
    names = [f"stem.{3 * i + j}.{kind}" for i in range(count - plain) for j in (0, 1) for kind in ("weight", "bias")]
    names += [f"stem.{3 * (count - 1)}.{kind}" for kind in ("weight", "bias")] * plain
    assert list(stem.state_dict()) == names


def by_hand(stem: dict[str, Tensor], strides: list[int], x: Tensor) -> Tensor:
    for index, stride in enumerate(strides):
        x = F.conv2d(x, stem[f"stem.{3 * index}.weight"], stem[f"stem.{3 * index}.bias"], stride=stride, padding=1)
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
        weight, bias = (stem[f"stem.{3 * index + 1}.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        x = (x - mean) / (var + 1e-6).sqrt() * weight + bias
        x = x / 2 * (1 + torch.erf(x / 2**0.5))
    last = f"stem.{3 * len(strides)}"
    return F.conv2d(x, stem[f"{last}.weight"], stem[f"{last}.bias"]) if f"{last}.weight" in stem else x


@pytest.mark.parametrize(("name", "strides"), [("test_convnext", [2, 2]), ("test_vit", [2, 2, 2, 2])])
def test_a_stem_computes_what_it_says(name, strides):
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, image_shape=(3, 32, 32), options={"conv_stem": True}).double().eval()
    stem = model.stem if "convnext" in name else model.patch_embed.proj
    for parameter in stem.parameters():
        nn.init.normal_(parameter)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(stem(images), by_hand(stem.state_dict(), strides, images), rtol=0, atol=1e-9)
    assert model(images).shape == (2, 5)


def test_stochastic_depth_is_an_option_of_timms():
    model = build_model("test_vit", num_classes=5, image_shape=(3, 160, 160), options={"drop_path_rate": 0.5})
    assert max(getattr(module, "drop_prob", 0) or 0 for module in model.modules()) == 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"conv_stem": True}, r"model\.options\.conv_stem: got True with a ResNet; allowed: with timm's"),
        ("vit_tiny_patch16_224", {"conv_stem": "yes"}, r"model\.options\.conv_stem: got 'yes'; allowed: true or false"),
        (
            "resnet18",
            {"drop_path": 0.1},
            r"model\.options\.drop_path: got 0\.1; .*; did you mean 'drop_path_rate'",
        ),
        ("resnet18", {"num_classes": 3}, r"model\.options\.num_classes: got 3; it comes from model\.num_classes"),
        ("resnet18", {"checkpoint_path": "x.pt"}, r"model\.options\.checkpoint_path: .* model\.weights"),
        (
            "resnet18",
            {"pretrained_cfg": {"file": "x"}},
            r"model\.options\.pretrained_cfg: got .*; allowed with resnet18",
        ),
        ("resnet18", {"drop_path_rate": "much"}, r"model\.options: got \{'drop_path_rate': 'much'\}; resnet18 refuses"),
        ("small_cnn", {"width": 3}, r"model\.options\.width: got 3; allowed with small_cnn: none"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(name, num_classes=5, image_shape=(3, 32, 32), options=options)
    assert "\n" not in str(caught.value)
