"""Convolutions of images laid side by side against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.attack import AttackView
from act_engine.attack.folding import foldable_pairs
from act_engine.models import build_model, side_by_side
from act_engine.models.side_by_side import SideBySideConv2d, convolve_side_by_side, lay_side_by_side


@pytest.fixture
def amx(monkeypatch):
    """The layers are exchanged on any machine: without AMX they are slower, and as right."""
    monkeypatch.setattr(side_by_side, "has_amx", lambda: True)


@pytest.fixture
def calls(monkeypatch):
    """The shapes that went side by side."""
    shapes = []

    def counted(input, *rest):
        shapes.append(tuple(input.shape))
        return convolve_side_by_side(input, *rest)

    monkeypatch.setattr(side_by_side, "convolve_side_by_side", counted)
    return shapes


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (1, 3), (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (5, 8), (2, 1)])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equals_the_convolution(kernel, stride, size, batch, seeded):
    stride, padding = nn.modules.utils._pair(stride), tuple(k // 2 for k in kernel)
    tensors = (torch.randn(batch, 6, *size), torch.randn(5, 6, *kernel), torch.randn(5))
    tensors = [tensor.double().requires_grad_() for tensor in tensors]
    plain = F.conv2d(*tensors, stride, padding)
    wide = convolve_side_by_side(*tensors, stride, padding)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn_like(plain)
    expected = (plain, *torch.autograd.grad(plain, tensors, upstream))
    found = (wide, *torch.autograd.grad(wide, tensors, upstream))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("amx")
def test_only_where_it_pays(calls, seeded):
    layer = lay_side_by_side(nn.Conv2d(128, 8, 3, padding=1)).to(memory_format=torch.channels_last)
    images = torch.randn(4, 128, 7, 7).contiguous(memory_format=torch.channels_last)
    plain = F.conv2d(images, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(images), plain)
    with torch.autocast("cpu", torch.float16):
        layer(images)
    with torch.autocast("cpu", torch.bfloat16):
        layer(images[:1])
        layer(images[0])
        layer(images.contiguous())
        layer(torch.randn(4, 128, 8, 8).contiguous(memory_format=torch.channels_last))
        assert not calls
        reduced = layer(images)
    assert calls == [(4, 128, 7, 7)]
    assert reduced.dtype is torch.bfloat16
    # Inputs and output rounded to 8 bits: each product is off by 2^-8, and 1,152 of them of size 0.02 add at random.
    torch.testing.assert_close(reduced.float(), plain, rtol=2**-7, atol=2**-8 * 0.02 * 1152**0.5 * 4)


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(64, 8, 3, padding=1),
        nn.Conv2d(128, 8, 1),
        nn.Conv2d(128, 8, 3),
        nn.Conv2d(128, 8, 3, padding="same"),
        nn.Conv2d(128, 8, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(128, 8, 3, padding=1, dilation=(2, 1)),
        nn.Conv2d(128, 8, 3, padding=1, groups=2),
        type("Own", (nn.Conv2d,), {})(128, 8, 3, padding=1),
    ],
    ids=str,
)
def test_other_layers_stay(layer):
    before = type(layer)
    assert type(lay_side_by_side(layer)) is before


def test_nothing_changes_without_amx(monkeypatch):
    monkeypatch.setattr(side_by_side, "has_amx", lambda: False)
    assert type(lay_side_by_side(nn.Conv2d(128, 8, 3, padding=1))) is nn.Conv2d


@pytest.mark.usefixtures("amx")
def test_a_model_keeps_its_names_and_its_folding(calls, seeded):
    model = build_model("cifar_resnet18", num_classes=10, image_shape=(3, 32, 32)).eval()
    names, pairs = list(model.state_dict()), foldable_pairs(model)
    images = torch.rand(2, 3, 32, 32)
    expected = AttackView(model, fold=False)(images)
    lay_side_by_side(model)
    assert sum(isinstance(layer, SideBySideConv2d) for layer in model.modules()) == 11  # of 128 channels and more
    assert list(model.state_dict()) == names
    assert foldable_pairs(model) == pairs
    # Images, weights and outputs of 21 layers are rounded by up to 2^-9 of their size each; such errors add at random.
    error = (AttackView(model, precision="bfloat16")(images) - expected).abs().max()
    assert 0 < error <= 3 * (3 * 21) ** 0.5 * 2**-9 * expected.abs().max()
    assert calls == [(2, 256, 8, 8), *[(2, 512, 4, 4)] * 3]
