"""Convolutions of small images on CPUs whose matrix unit (AMX) takes 16 output columns at a time."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NARROW = 8
"""Output columns from which a convolution fills enough of a 16-row tile by itself."""
MANY = 128
"""Input channels from which the fuller tiles outweigh the copies."""


class SideBySideConv2d(nn.Conv2d):
    """`nn.Conv2d` that lays a batch of small images side by side, and convolves them as one wide image.

    oneDNN gives the rows of an AMX tile to neighbouring output columns of one image, so an image 4 columns wide fills a
    quarter of it; with zero columns between, the whole batch as one image fills all of it. In bfloat16, for ResNet-18's
    512-channel 3×3 layers on 4×4 images, forward and input gradient then take about 0.6 of the time, with the weight
    gradient 0.4. The products that are summed are the same ones. In other precisions, layouts and sizes it is the plain
    layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        if _pays(self, input):
            return convolve_side_by_side(input, self.weight, self.bias, self.stride, self.padding)
        return super().forward(input)


def lay_side_by_side(model: nn.Module) -> nn.Module:
    """Make the `nn.Conv2d` layers that can gain from it `SideBySideConv2d`, in place; parameters stay as they are.

    Subclasses of `nn.Conv2d` are left alone, and on a CPU without AMX or on another device so is everything.
    """
    if has_amx():
        for module in model.modules():
            if type(module) is nn.Conv2d and _suits(module):
                module.__class__ = SideBySideConv2d
    return model


def stand_apart(model: nn.Module) -> nn.Module:
    """Make every `SideBySideConv2d` the plain `nn.Conv2d` that it was, in place."""
    for module in model.modules():
        if type(module) is SideBySideConv2d:
            module.__class__ = nn.Conv2d
    return model


def convolve_side_by_side(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """`F.conv2d` of `input` [B, C, H, W] by way of one image [1, C, H, B · (W + gap)]; the result is channels_last.

    The gap holds the right padding of one image and the left padding of the next, widened until every image begins at
    a multiple of the stride. `weight` [C', C, h, w] needs w = 2 · padding + 1 along the width.
    """
    images, channels, height, width = input.shape
    gap = padding[1] + -(width + padding[1]) % stride[1]
    apart = F.pad(input.permute(0, 2, 3, 1), (0, 0, 0, gap))
    wide = apart.transpose(0, 1).reshape(1, height, images * (width + gap), channels).permute(0, 3, 1, 2)
    out = F.conv2d(wide, weight, bias, stride, padding)[0].permute(1, 2, 0)
    columns = (width - 1) // stride[1] + 1
    out = out.unflatten(1, (images, -1))[:, :, :columns].transpose(0, 1)
    return out.contiguous().permute(0, 3, 1, 2)


@functools.cache
def has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in tiles; False where torch is too old to tell."""
    return getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)


def _suits(layer: nn.Conv2d) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.in_channels >= MANY
        and layer.kernel_size[1] > 1
        and not isinstance(layer.padding, str)
        and 2 * layer.padding[1] + 1 == layer.kernel_size[1]
        and layer.padding_mode == "zeros"
        and layer.dilation == (1, 1)
        and layer.groups == 1
    )


def _pays(layer: nn.Conv2d, input: Tensor) -> bool:
    if input.device.type != "cpu" or input.dim() != 4 or len(input) < 2:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
    columns = (input.shape[3] - 1) // layer.stride[1] + 1
    in_layout = input.is_contiguous(memory_format=torch.channels_last)
    return dtype is torch.bfloat16 and columns < NARROW and in_layout
