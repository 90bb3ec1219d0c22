"""ConvStem: strided 3x3 convolutions instead of one patch convolution (Singh, Croce and Hein, 2023, arXiv 2303.01870).

Layout and key names are those of their published weights (RobustBench's ``convstem_models.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from act_engine.models.layers import LayerNorm2d

WIDE = 128
"""First width of a ConvNeXt from which its stem has a third convolution (B and L; T and S have two)."""


class ConvStem(nn.Module):
    """3x3 convolutions, each with LayerNorm and GELU, then with `last` a 1x1 convolution to so many channels."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], strides: Sequence[int], last: int | None = None
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(in_channels, width, 3, stride=stride, padding=1), LayerNorm2d(width), nn.GELU()]
            in_channels = width
        if last is not None:
            layers.append(nn.Conv2d(in_channels, last, 1))
        self.stem = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images)


def convnext_stem(in_channels: int, width: int) -> ConvStem:
    """For a ConvNeXt whose first stage is `width` wide: stride 4, widths rising to `width`."""
    if width < WIDE:
        return ConvStem(in_channels, (width // 2, width), (2, 2))
    return ConvStem(in_channels, (width // 2, width * 3 // 4, width), (2, 2, 1))


def vit_stem(in_channels: int, width: int, patch: int) -> ConvStem:
    """For a ViT of patches of `patch` pixels, a power of two, and `width` channels: widths double from 48, or less."""
    first, count = min(48, width // 8), int(math.log2(patch))
    return ConvStem(in_channels, [first << number for number in range(count)], [2] * count, last=width)
