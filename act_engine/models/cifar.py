"""The CIFAR residual networks of the adversarial-training literature, for 32x32 images."""

from __future__ import annotations

import math

from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus the input, then ReLU (He et al., 2015)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the input (He et al., 2016); a projection shortcut starts after the first ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.relu = nn.ReLU()
        projects = stride != 1 or in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(self.relu(self.bn2(out)))
        return out + shortcut


class CifarResNet(nn.Module):
    """A 3x3 stem, groups of residual blocks (the first of each later group halves the side), pooling, linear.

    `widths`: the stem's channels, then each group's. With pre-activation blocks a BatchNorm and ReLU end the groups
    instead of following the stem.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[PreActBlock],
        widths: tuple[int, ...],
        blocks_per_group: int,
        *,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        pre_activation = block is PreActBlock
        channels = widths[0]
        self.conv1 = _conv(in_channels, channels, 3)
        self.bn1 = nn.Identity() if pre_activation else nn.BatchNorm2d(channels)
        groups = []
        for number, width in enumerate(widths[1:]):
            blocks = []
            for index in range(blocks_per_group):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride))
                channels = width
            groups.append(nn.Sequential(*blocks))
        self.groups = nn.Sequential(*groups)
        self.bn_last = nn.BatchNorm2d(channels) if pre_activation else nn.Identity()
        self.relu_first = nn.Identity() if pre_activation else nn.ReLU()
        self.relu_last = nn.ReLU() if pre_activation else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.relu_first(self.bn1(self.conv1(images)))
        out = self.relu_last(self.bn_last(self.groups(out)))
        return self.fc(self.pool(out).flatten(1))


def resnet18(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-18 with a 3x3 stem, initialised by PyTorch's defaults."""
    widths = (64, 64, 128, 256, 512)
    return CifarResNet(BasicBlock, widths, 2, num_classes=num_classes, in_channels=in_channels)


def preact_resnet18(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """PreActResNet-18 with a last BatchNorm, as Rice, Wong and Kolter (2020) train it."""
    widths = (64, 64, 128, 256, 512)
    return CifarResNet(PreActBlock, widths, 2, num_classes=num_classes, in_channels=in_channels)


def wide_resnet(depth: int, width: int, num_classes: int, in_channels: int = 3) -> CifarResNet:
    """WideResNet-depth-width, no dropout (Zagoruyko and Komodakis, 2016), initialised as in TRADES' released code.

    Convolutions: normal with variance 2 / (k^2 * output channels); the linear layer's bias 0. ValueError unless
    depth = 6 n + 4.
    """
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise ValueError(
            f"model.name: cifar_wrn{depth}_{width}: the depth must be 10, 16, 22, 28, 34 …, the width >= 1"
        )
    widths = (16, 16 * width, 32 * width, 64 * width)
    model = CifarResNet(PreActBlock, widths, (depth - 4) // 6, num_classes=num_classes, in_channels=in_channels)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    nn.init.zeros_(model.fc.bias)
    return model
