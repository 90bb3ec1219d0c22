"""Common corruptions of test images (Hendrycks and Dietterich 2019, arXiv 1903.12261) that can be computed from them.

The numbers are the published ones: those of CIFAR-10-C for pictures of up to 64 pixels a side, those of ImageNet-C for
larger ones. Like the published sets, a corrupted picture is rounded down to 8 bits. Frost, snow, fog, spatter, glass,
motion and elastic, which need photographs, other programs or a loop over pixels, are not among them: the published
files of those are evaluated as test sets of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import util
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from act_engine.attack import unit_range
from act_engine.errors import nearest
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.premises import WatchedView, is_right

SEVERITIES = 5
SMALL = 64  # the longest side of pictures that get CIFAR-10-C's numbers

Draw = Callable[[Callable[[torch.Generator], Tensor]], Tensor]
"""Calls a function with one generator an image, and stacks what it gives: [B, ...] on the CPU."""
Kind = Callable[[Tensor, Any, Draw], Tensor]
"""Images [B, C, H, W] in [0, 1], the number or numbers of a severity, a source of draws: corrupted images."""


def gaussian_noise(x: Tensor, deviation: float, draw: Draw) -> Tensor:
    """x + deviation · N(0, 1)."""
    return x + deviation * _normal(x, draw)


def shot_noise(x: Tensor, photons: float, draw: Draw) -> Tensor:
    """Poisson(x · photons) / photons."""
    rates = iter(x.cpu() * photons)
    return draw(lambda generator: torch.poisson(next(rates), generator=generator)).to(x) / photons


def impulse_noise(x: Tensor, amount: float, draw: Draw) -> Tensor:
    """That share of the values becomes 0 or 1, either as often."""
    uniform = draw(lambda generator: torch.rand(2, *x.shape[1:], generator=generator)).to(x)
    flipped, salt = uniform.unbind(1)
    return torch.where(flipped <= amount, (salt <= 0.5).to(x), x)


def speckle_noise(x: Tensor, deviation: float, draw: Draw) -> Tensor:
    """x + x · deviation · N(0, 1)."""
    return x + x * deviation * _normal(x, draw)


def gaussian_blur(x: Tensor, sigma: float, draw: Draw) -> Tensor:
    """The mean weighted by a normal distribution of `sigma` pixels, cut off at 4 sigma; edges repeated."""
    reach = int(4 * sigma + 0.5)
    weights = _bell(reach, sigma)
    columns = _filter(x, weights[:, None], "replicate")
    return _filter(columns, weights[None, :], "replicate")


def defocus_blur(x: Tensor, disk: tuple[float, float], draw: Draw) -> Tensor:
    """The mean over a disk of that radius, itself blurred by the second number; edges reflected."""
    radius, alias = disk
    side = torch.arange(-max(8, radius), max(8, radius) + 1)
    inside = (side[:, None] ** 2 + side[None, :] ** 2 <= radius**2).float()
    bell = _bell(1 if radius <= 8 else 2, alias)
    weights = _filter(inside[None, None] / inside.sum(), bell[:, None] * bell[None, :], "reflect")[0, 0]
    cut = int(len(side) // 2 - math.ceil(radius) - len(bell) // 2)
    return _filter(x, weights[cut:-cut, cut:-cut] if cut > 0 else weights, "reflect")


def zoom_blur(x: Tensor, factors: np.ndarray, draw: Draw) -> Tensor:
    """The mean of the picture and of itself enlarged by each factor around its middle."""
    height, width = x.shape[2:]
    total = x.clone()
    for factor in factors:
        rows, columns = math.ceil(height / factor), math.ceil(width / factor)
        top, left = (height - rows) // 2, (width - columns) // 2
        size = (round(rows * factor), round(columns * factor))
        crop = x[:, :, top : top + rows, left : left + columns]
        zoomed = F.interpolate(crop, size=size, mode="bilinear", align_corners=True)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        total += zoomed[:, :, top : top + height, left : left + width]
    return total / (len(factors) + 1)


def brightness(x: Tensor, more: float, draw: Draw) -> Tensor:
    """The value of hue, saturation and value, which is the largest channel, plus `more`, at most 1."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, x * (brighter / value), brighter)


def contrast(x: Tensor, factor: float, draw: Draw) -> Tensor:
    """The distance of a value from its channel's mean in the picture, times `factor`."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def saturate(x: Tensor, change: tuple[float, float], draw: Draw) -> Tensor:
    """The saturation, times the first number plus the second, in [0, 1]; a grey pixel has the hue of red."""
    factor, more = change
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = value - least
    saturation = torch.where(value > 0, spread / value, 0)
    red = torch.tensor([0.0, 1, 1]).to(x).view(1, 3, 1, 1).expand_as(x)
    below = torch.where(spread > 0, (value - x) / spread, red)  # of a channel, 0 to 1 of what the saturation allows
    return value - value * (saturation * factor + more).clamp(0, 1) * below


def pixelate(x: Tensor, scale: float, draw: Draw) -> Tensor:
    """Shrunk to that share of its sides, and enlarged again, each pixel being a box's mean."""
    from PIL.Image import Resampling

    def boxes(picture: Any) -> Any:
        small = [max(1, int(side * scale)) for side in picture.size]
        return picture.resize(small, Resampling.BOX).resize(picture.size, Resampling.BOX)

    return _by_pillow(x, boxes)


def jpeg_compression(x: Tensor, quality: int, draw: Draw) -> Tensor:
    """Written as a JPEG of that quality, and read."""
    from PIL import Image

    def compressed(picture: Any) -> Any:
        file = BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _by_pillow(x, compressed)


def _zooms(*ends: tuple[float, float]) -> list[np.ndarray]:
    return [np.arange(1, end, step) for end, step in ends]


KINDS: dict[str, tuple[Kind, Sequence[Any], Sequence[Any]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "defocus_blur": (
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "zoom_blur": (
        zoom_blur,
        _zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        _zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        saturate,
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""By name: the corruption, and its numbers of severity 1 to 5 for small pictures and for large ones."""
COLOUR = ("saturate",)  # which grey pictures have none of


def corruptions_named(names: Sequence[str], channels: int) -> tuple[str, ...]:
    """The kinds that the setting ``evaluate.corruptions`` names; ``all``: those that so many channels can have.

    Raises:
        ValueError: one is not known, or not for pictures of so many channels.
    """
    allowed = [name for name in KINDS if channels == 3 or name not in COLOUR]
    for name in names:
        if name != "all" and name not in allowed:
            grey = " with grey images" if name in KINDS else ""
            raise ValueError(
                f"evaluate.corruptions: got {name!r}; allowed{grey}: all, {', '.join(allowed)}{nearest(name, allowed)}"
            )
    if names and channels not in (1, 3):
        raise ValueError(f"evaluate.corruptions: got {names[0]!r}; allowed with images of {channels} channels: none")
    if names and not util.find_spec("PIL"):
        raise ValueError("evaluate.corruptions: needs Pillow, which is not installed; pip install pillow")
    return tuple(allowed) if "all" in names else tuple(dict.fromkeys(names))


def corrupt(x: Tensor, kind: str, severity: int, place: Place) -> Tensor:
    """Images [B, C, H, W], float in [0, 1] or uint8, under a kind of corruption; float in [0, 1], whole 255ths.

    The draws belong to the image's place in its data set: the same in any split of a batch and on any device.

    Args:
        severity: 1 to 5.
        place: of the first image, with the seed of the draws.
    """
    x = unit_range(x)
    corruption, *numbers = KINDS[kind]
    number = numbers[max(x.shape[2:]) > SMALL][severity - 1]

    def draw(one: Callable[[torch.Generator], Tensor]) -> Tensor:
        drawn = []
        for index in range(len(x)):
            key = [place.seed, place.first + index, list(KINDS).index(kind), severity]
            seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
            drawn.append(one(torch.Generator().manual_seed(seed)))
        return torch.stack(drawn)

    # As the published files: what is not whole is cut off, less float32's rounding of a whole number.
    return (corruption(x, number, draw).clamp(0, 1) * 255 + 1e-3).floor() / 255


@dataclass(frozen=True)
class Corruption:
    """Whether the model is right on the images under one kind of corruption; a stage is a severity, 1 to 5.

    Unlike an attack it has nothing to do with the clean images: one that the model gets wrong may be right corrupted.
    """

    kind: str

    stages = SEVERITIES

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        levels = range(1, self.stages + 1)
        with torch.no_grad():
            return torch.stack([is_right(view(corrupt(x, self.kind, level, place)), y) for level in levels])


def _normal(x: Tensor, draw: Draw) -> Tensor:
    return draw(lambda generator: torch.randn(x.shape[1:], generator=generator)).to(x)


def _bell(reach: int, sigma: float) -> Tensor:
    """Weights [2 · reach + 1] of a normal distribution, which add up to 1."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    return (weights / weights.sum()).float()


def _filter(x: Tensor, weights: Tensor, edges: str) -> Tensor:
    """Each value's neighbourhood in its own channel, weighted by `weights` [rows, columns] of odd sizes."""
    rows, columns = (side // 2 for side in weights.shape)
    kernel = weights.to(x).expand(x.shape[1], 1, *weights.shape)
    return F.conv2d(F.pad(x, (columns, columns, rows, rows), mode=edges), kernel, groups=x.shape[1])


def _by_pillow(x: Tensor, change: Callable[[Any], Any]) -> Tensor:
    """What `change` makes of each picture, as 8 bits, given and returned as Pillow's images."""
    from PIL import Image

    pictures = (x.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grey = pictures.shape[3] == 1
    changed = [np.asarray(change(Image.fromarray(picture[..., 0] if grey else picture))) for picture in pictures]
    stacked = torch.from_numpy(np.stack(changed).reshape(pictures.shape))
    return stacked.permute(0, 3, 1, 2).to(x) / 255
