"""The residual networks of RobustBench's leaders, in the layout and with the key names of their published weights.

Facts: RobustBench's ``dm_wide_resnet.py`` (Gowal et al., 2020; Rebuffi et al., 2021; Wang et al., 2023; Bartoldson et
al., 2024) and ``robustarch_wide_resnet.py`` (Peng et al., "Robust Principles", 2023). Their strided 3x3 convolutions
pad right and bottom only, as TensorFlow's ``SAME`` does; mean and std belong to the network and are not stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from act_engine.models.layers import Normalize, SqueezeExcitation

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

Activation = Literal["silu", "relu"]


def cifar_statistics(num_classes: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std a channel that the published weights expect: CIFAR-100's with 100 classes, CIFAR-10's otherwise."""
    return CIFAR100 if num_classes == 100 else CIFAR10


def _pad(stride: int) -> nn.Module:
    """What goes before a 3x3 convolution: a strided one sees zeros at its right and bottom alone."""
    return nn.Identity() if stride == 1 else nn.ZeroPad2d((0, 1, 0, 1))


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False)


class WideBlock(nn.Module):
    """norm-activation-conv-norm-activation-conv plus the input; where the width changes, a 1x1 shortcut after the first
    activation. With `squeeze` (a share of the channels) a squeeze-and-excitation follows the second convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module], squeeze: float | None
    ) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.relu_0 = activation()
        self.pad = _pad(stride)
        self.conv_0 = _conv3x3(in_channels, out_channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(out_channels)
        self.relu_1 = activation()
        self.conv_1 = _conv3x3(out_channels, out_channels, 1)
        projects = in_channels != out_channels
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False) if projects else None
        self.se = None if squeeze is None else SqueezeExcitation(out_channels, round(squeeze * out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu_0(self.batchnorm_0(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv_0(self.pad(out))
        out = self.conv_1(self.relu_1(self.batchnorm_1(out)))
        return shortcut + (out if self.se is None else self.se(out))


class WideGroup(nn.Module):
    """Blocks of one width; the first may halve the side."""

    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int, **settings: object) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(
                WideBlock(out_channels if index else in_channels, out_channels, 1 if index else stride, **settings)
                for index in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class WideResNet(nn.Module):
    """A 3x3 stem, three groups of pre-activation blocks (the later two halve the side), norm, pooling, linear.

    Args:
        widths: channels of the stem and of each group.
        depths: blocks of each group.
        mean, std: one value a channel, for images in [0, 1]; None: the images are taken as they are.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        activation: Activation,
        squeeze: float | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        kind = _activation(activation)
        self.normalize = _normalize(mean, std)
        self.init_conv = _conv3x3(in_channels, widths[0], 1)
        self.layer = nn.Sequential(
            *(
                WideGroup(blocks, before, after, 1 if number == 0 else 2, activation=kind, squeeze=squeeze)
                for number, (blocks, before, after) in enumerate(zip(depths, widths[:-1], widths[1:], strict=True))
            )
        )
        self.batchnorm = nn.BatchNorm2d(widths[-1])
        self.relu = kind()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.logits = nn.Linear(widths[-1], num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out = self.layer(self.init_conv(self.normalize(images)))
        return self.logits(self.pool(self.relu(self.batchnorm(out))).flatten(1))


class PreActBlock(nn.Module):
    """norm-activation-conv-norm-activation-conv plus the input; where stride or width change, a 3x3 shortcut of the raw
    input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(in_channels)
        self.relu_0 = activation()
        self.pad = _pad(stride)
        self.conv_2d_1 = _conv3x3(in_channels, out_channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(out_channels)
        self.relu_1 = activation()
        self.conv_2d_2 = _conv3x3(out_channels, out_channels, 1)
        projects = stride != 1 or in_channels != out_channels
        self.shortcut = _conv3x3(in_channels, out_channels, stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_2d_1(self.pad(self.relu_0(self.batchnorm_0(x))))
        out = self.conv_2d_2(self.relu_1(self.batchnorm_1(out)))
        return out + (x if self.shortcut is None else self.shortcut(self.pad(x)))


class PreActResNet(nn.Module):
    """A 3x3 stem, four groups of pre-activation blocks (64 to 512 channels), norm, pooling, linear."""

    def __init__(
        self,
        depths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int,
        activation: Activation,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        kind = _activation(activation)
        self.normalize = _normalize(mean, std)
        self.conv_2d = _conv3x3(in_channels, 64, 1)
        channels = 64
        for number, blocks in enumerate(depths):
            width, group = 64 << number, []
            for index in range(blocks):
                group.append(PreActBlock(channels, width, 2 if number and not index else 1, kind))
                channels = width
            setattr(self, f"layer_{number}", nn.Sequential(*group))
        self.batchnorm = nn.BatchNorm2d(channels)
        self.relu = kind()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.logits = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        out = self.conv_2d(self.normalize(images))
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(out))))
        return self.logits(self.pool(self.relu(self.batchnorm(out))).flatten(1))


def wide_resnet(
    depth: int,
    width: int,
    num_classes: int,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    activation: Activation = "silu",
) -> WideResNet:
    """WideResNet-depth-width in RobustBench's layout, such as 28-10 or 94-16; ValueError unless depth = 6 n + 4."""
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(
            f"model.name: got 'robustbench_wrn{depth}_{width}'; allowed: depths 10, 16, 22, 28 …, widths of 1 or more"
        )
    widths, depths = (16, 16 * width, 32 * width, 64 * width), ((depth - 4) // 6,) * 3
    return WideResNet(
        widths,
        depths,
        num_classes=num_classes,
        in_channels=in_channels,
        activation=activation,
        squeeze=None,
        mean=mean,
        std=std,
    )


def ra_wide_resnet(
    num_classes: int,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    widths: Sequence[int] = (96, 216, 432, 864),
    depths: Sequence[int] = (30, 31, 10),
    squeeze: float = 0.25,
    activation: Activation = "silu",
) -> WideResNet:
    """RaWRN of Peng et al. (2023): a wider stem, stages of their own depth and width, squeeze-and-excitation.

    The defaults are RaWRN-70-16. `squeeze`: share of a block's channels in its squeeze, above 0.
    """
    if len(widths) != 4 or len(depths) != 3 or min(*widths, *depths) < 1 or not squeeze > 0:
        raise ValueError(
            f"model.options: got widths {list(widths)}, depths {list(depths)}, squeeze {squeeze}; allowed: 4 widths "
            "(the stem's, then each group's), 3 depths, all of 1 or more, and a squeeze above 0"
        )
    return WideResNet(
        widths,
        depths,
        num_classes=num_classes,
        in_channels=in_channels,
        activation=activation,
        squeeze=squeeze,
        mean=mean,
        std=std,
    )


def preact_resnet18(
    num_classes: int,
    in_channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    activation: Activation = "silu",
) -> PreActResNet:
    """PreActResNet-18 in RobustBench's layout (Rebuffi et al., 2021; Gowal et al., 2021)."""
    return PreActResNet(
        (2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels, activation=activation, mean=mean, std=std
    )


def _activation(name: str) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"model.options.activation: got {name!r}; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _normalize(mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    return nn.Identity() if mean is None else Normalize(mean, std)


def _initialise(model: nn.Module) -> None:
    """As Wang et al. train: convolutions normal, variance 2 / (k^2 * output channels), the linear layer's bias 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    nn.init.zeros_(model.logits.bias)
