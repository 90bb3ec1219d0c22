"""RobustBench's layouts: a state dict with its names gives the forward of plain functions that are written here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_engine.attack import AttackView
from act_engine.models import build_model, load_weights

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)

State = dict[str, Tensor]


class Writer:
    """Random float64 weights under RobustBench's names, written without a module."""

    def __init__(self, seed: int) -> None:
        self.generator, self.state = torch.Generator().manual_seed(seed), {}

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def conv(self, name: str, out: int, into: int, size: int, bias: bool = False) -> None:
        self.state[f"{name}.weight"] = self.random(out, into, size, size) / (into * size * size) ** 0.5
        if bias:
            self.state[f"{name}.bias"] = self.random(out)

    def norm(self, name: str, channels: int) -> None:
        self.state[f"{name}.weight"] = 1 + 0.1 * self.random(channels)
        self.state[f"{name}.bias"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_mean"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_var"] = 1 + self.random(channels) ** 2
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name: str, out: int, into: int) -> None:
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = self.random(out, into), self.random(out)


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    column = (1, -1, 1, 1)
    return (x - mean.view(column)) / (var.view(column) + 1e-5).sqrt() * weight.view(column) + bias.view(column)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def conv3x3(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """TensorFlow's SAME: one zero all round, or for stride 2 on an even side at the right and the bottom alone."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)), weight, stride=stride)


def write_wide(widths: tuple[int, ...], depths: tuple[int, ...], classes: int, squeeze: float | None = None) -> State:
    out = Writer(0)
    out.conv("init_conv", widths[0], 3, 3)
    for group, (depth, before, after) in enumerate(zip(depths, widths[:-1], widths[1:], strict=True)):
        for block in range(depth):
            name, into = f"layer.{group}.block.{block}", after if block else before
            out.norm(f"{name}.batchnorm_0", into)
            out.conv(f"{name}.conv_0", after, into, 3)
            out.norm(f"{name}.batchnorm_1", after)
            out.conv(f"{name}.conv_1", after, after, 3)
            if into != after:
                out.conv(f"{name}.shortcut", after, into, 1)
            if squeeze is not None:
                out.conv(f"{name}.se.fc1", round(squeeze * after), after, 1, bias=True)
                out.conv(f"{name}.se.fc2", after, round(squeeze * after), 1, bias=True)
    out.norm("batchnorm", widths[-1])
    out.linear("logits", classes, widths[-1])
    return out.state


def wide_forward(state: State, depths: tuple[int, ...], images: Tensor, mean=MEAN, std=STD) -> Tensor:
    x = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    x = conv3x3(x, state["init_conv.weight"], 1)
    for group, depth in enumerate(depths):
        for block in range(depth):
            name, stride = f"layer.{group}.block.{block}", 2 if group and not block else 1
            active = silu(norm(state, f"{name}.batchnorm_0", x))
            if f"{name}.shortcut.weight" in state:
                x = F.conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
            out = conv3x3(active, state[f"{name}.conv_0.weight"], stride)
            out = conv3x3(silu(norm(state, f"{name}.batchnorm_1", out)), state[f"{name}.conv_1.weight"], 1)
            if f"{name}.se.fc1.weight" in state:
                squeezed = out.mean((2, 3))
                for layer, function in (("fc1", torch.relu), ("fc2", torch.sigmoid)):
                    weight, bias = (state[f"{name}.se.{layer}.{kind}"] for kind in ("weight", "bias"))
                    squeezed = function(squeezed @ weight[:, :, 0, 0].T + bias)
                out = out * squeezed[:, :, None, None]
            x = x + out
    features = F.avg_pool2d(silu(norm(state, "batchnorm", x)), 8).flatten(1)
    return features @ state["logits.weight"].T + state["logits.bias"]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loaded(name: str, state: State, tmp_path, **settings) -> nn.Module:
    torch.save(state, tmp_path / "weights.pt")
    model = build_model(name, image_shape=(3, 32, 32), **settings).double()
    assert load_weights(model, tmp_path / "weights.pt") == []  # nothing renamed, nothing left aside
    return model.eval()


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 2)])
def test_a_wide_resnet_gives_the_published_layouts_own_logits(depth, width, images, tmp_path):
    """Both in float64, where rounding is far below 1e-6."""
    blocks = (depth - 4) // 6
    state = write_wide((16, 16 * width, 32 * width, 64 * width), (blocks,) * 3, 10)
    model = loaded(f"robustbench_wrn{depth}_{width}", state, tmp_path, num_classes=10)
    torch.testing.assert_close(model(images), wide_forward(state, (blocks,) * 3, images), rtol=0, atol=1e-6)
    assert model.state_dict().keys() == state.keys()


def test_a_wide_resnet_of_the_published_size(images, tmp_path):
    """WRN-28-10, in float64 too."""
    state = write_wide((16, 160, 320, 640), (4, 4, 4), 10)
    model = loaded("robustbench_wrn28_10", state, tmp_path, num_classes=10)
    wanted = wide_forward(state, (4, 4, 4), images[:1])
    torch.testing.assert_close(model(images[:1]), wanted, rtol=0, atol=1e-6)
    assert sum(p.numel() for p in model.parameters()) == 36_479_194


def test_cifar100s_statistics_and_given_ones(images, tmp_path):
    state = write_wide((16, 16, 32, 64), (1, 1, 1), 100)
    model = loaded("robustbench_wrn10_1", state, tmp_path, num_classes=100)
    cifar100 = {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)}
    torch.testing.assert_close(model(images), wide_forward(state, (1, 1, 1), images, **cifar100), rtol=0, atol=1e-6)
    own = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 0.5)}
    model = loaded("robustbench_wrn10_1", state, tmp_path, num_classes=100, **own)
    torch.testing.assert_close(model(images), wide_forward(state, (1, 1, 1), images, **own), rtol=0, atol=1e-6)


def test_ra_wide_resnet(images, tmp_path):
    widths, depths = (24, 24, 32, 40), (2, 1, 2)
    state = write_wide(widths, depths, 10, squeeze=0.25)
    settings = {"num_classes": 10, "options": {"widths": list(widths), "depths": list(depths)}}
    model = loaded("robustbench_ra_wrn70_16", state, tmp_path, **settings)
    torch.testing.assert_close(model(images), wide_forward(state, depths, images), rtol=0, atol=1e-6)
    with torch.device("meta"):
        published = build_model("robustbench_ra_wrn70_16", num_classes=10, image_shape=(3, 32, 32))
    assert published.layer[1].block[0].se.fc1.weight.shape == (108, 432, 1, 1)
    assert [len(group.block) for group in published.layer] == [30, 31, 10]


def test_preact_resnet18(images, tmp_path):
    out = Writer(2)
    out.conv("conv_2d", 64, 3, 3)
    channels, blocks = 64, []
    for group in range(4):
        for block in range(2):
            name, width, stride = f"layer_{group}.{block}", 64 << group, 2 if group and not block else 1
            out.norm(f"{name}.batchnorm_0", channels)
            out.conv(f"{name}.conv_2d_1", width, channels, 3)
            out.norm(f"{name}.batchnorm_1", width)
            out.conv(f"{name}.conv_2d_2", width, width, 3)
            if stride == 2:
                out.conv(f"{name}.shortcut", width, channels, 3)
            blocks.append((name, stride))
            channels = width
    out.norm("batchnorm", 512)
    out.linear("logits", 10, 512)
    state = out.state
    model = loaded("robustbench_preact_resnet18", state, tmp_path, num_classes=10)
    x = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], 1)
    x = conv3x3(x, state["conv_2d.weight"], 1)
    for name, stride in blocks:
        inner = conv3x3(silu(norm(state, f"{name}.batchnorm_0", x)), state[f"{name}.conv_2d_1.weight"], stride)
        inner = conv3x3(silu(norm(state, f"{name}.batchnorm_1", inner)), state[f"{name}.conv_2d_2.weight"], 1)
        x = inner + (conv3x3(x, state[f"{name}.shortcut.weight"], stride) if stride == 2 else x)
    features = F.avg_pool2d(silu(norm(state, "batchnorm", x)), 4).flatten(1)
    wanted = features @ state["logits.weight"].T + state["logits.bias"]
    torch.testing.assert_close(model(images), wanted, rtol=0, atol=1e-6)


def test_relu_by_option_and_nothing_else(images):
    model = build_model("robustbench_wrn10_1", num_classes=10, image_shape=(3, 32, 32), options={"activation": "relu"})
    assert not any(isinstance(module, nn.SiLU) for module in model.modules())
    with pytest.raises(ValueError, match=r"model\.options\.activation: got 'gelu'; allowed: silu, relu"):
        build_model("robustbench_wrn10_1", num_classes=10, options={"activation": "gelu"})
    with pytest.raises(ValueError, match=r"model\.options\.activaton: got .*; did you mean 'activation'"):
        build_model("robustbench_wrn10_1", num_classes=10, options={"activaton": "relu"})


@pytest.mark.parametrize("name", ["robustbench_wrn10_1", "robustbench_preact_resnet18"])
def test_the_attacks_view_folds_batch_norm_and_stays_the_same_function(name, images):
    model = build_model(name, num_classes=10, image_shape=(3, 32, 32)).double().eval()
    view = AttackView(model)
    assert len(view.folded) == sum("batchnorm_1" in path for path, _ in model.named_modules())
    torch.testing.assert_close(view(images), model(images), rtol=0, atol=1e-10)
