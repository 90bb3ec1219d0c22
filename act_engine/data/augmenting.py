"""Augmentations of whole batches, after crops and flips: policies of torchvision, colour jitter, random erasing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DRAWS = 10  # uniform numbers an image
POLICIES = ("none", "trivialaugment", "randaugment", "autoaugment_cifar10", "autoaugment_imagenet", "augmix")
ERASED, TALL = (0.02, 1 / 3), (0.3, 1 / 0.3)  # share of the area, height / width: those of Zhong et al.


@dataclass(frozen=True)
class Augmenting:
    """What is done to images that are cropped and flipped already, in this order.

    `policy`: torchvision's transform of that name, on uint8 images; `jitter`: brightness, contrast and saturation each
    times a factor in [1 − jitter, 1 + jitter]; `erasing`: probability that a rectangle is made black (Zhong et al.
    2020, arXiv 1708.04896). All draws come from outside.
    """

    policy: str = "none"
    jitter: float = 0.0
    erasing: float = 0.0

    def __bool__(self) -> bool:
        return self.policy != "none" or self.jitter > 0 or self.erasing > 0

    def __call__(self, images: Tensor, draws: np.ndarray) -> Tensor:
        """The images [B, C, H, W], changed; `draws` [B, DRAWS] uniform in [0, 1)."""
        if self.policy != "none":
            images = self._by_policy(images, draws[:, 0])
        numbers = torch.from_numpy(draws[:, 1:]).to(images.device, torch.float32)
        if self.jitter:
            images = _like(images, jittered(_unit(images), self.jitter, numbers[:, :3]))
        return erased(images, self.erasing, numbers[:, 3:8]) if self.erasing else images

    def _by_policy(self, images: Tensor, seeds: np.ndarray) -> Tensor:
        if images.dtype != torch.uint8 or images.shape[1] != 3:
            kind = f"{images.dtype} images of {images.shape[1]} channel(s)"
            raise ValueError(
                f"data.policy: got {self.policy!r}; allowed with {kind}: none, for torchvision's take uint8 images of 3"
            )
        from torchvision.transforms import v2

        transform = {
            "trivialaugment": v2.TrivialAugmentWide,
            "randaugment": v2.RandAugment,
            "autoaugment_cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
            "autoaugment_imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
            "augmix": v2.AugMix,
        }[self.policy]()
        state, result = torch.get_rng_state(), torch.empty_like(images)
        for image, target, seed in zip(images, result, seeds, strict=True):
            torch.manual_seed(int(seed * 2**53))  # torchvision draws from the one generator that all share
            target.copy_(transform(image))
        torch.set_rng_state(state)
        return result


def jittered(images: Tensor, jitter: float, numbers: Tensor) -> Tensor:
    """Images [B, C, H, W] in [0, 1] with other brightness, contrast and saturation; `numbers` [B, 3] in [0, 1)."""
    factors = (1 + jitter * (2 * numbers - 1)).to(images.dtype)[:, :, None, None, None]
    images = (images * factors[:, 0]).clamp(0, 1)
    images = images.lerp(_grey(images).mean((2, 3), keepdim=True), 1 - factors[:, 1]).clamp(0, 1)
    return images.lerp(_grey(images), 1 - factors[:, 2]).clamp(0, 1)


def erased(images: Tensor, probability: float, numbers: Tensor) -> Tensor:
    """Images [B, C, H, W], each with that probability with a black rectangle; `numbers` [B, 5] in [0, 1)."""
    height, width = images.shape[-2:]
    whether, area, tall, y, x = numbers.unbind(1)
    area = (ERASED[0] + area * (ERASED[1] - ERASED[0])) * height * width
    log_low, log_high = np.log(TALL)
    tall = (log_low + tall * (log_high - log_low)).exp()
    sides = [(area * tall).sqrt().round().clamp(1, height), (area / tall).sqrt().round().clamp(1, width)]
    rows, columns = _within(y, sides[0], height), _within(x, sides[1], width)
    inside = (whether < probability)[:, None, None, None] & rows[:, None, :, None] & columns[:, None, None, :]
    return images.masked_fill(inside, 0)


def _within(place: Tensor, side: Tensor, size: int) -> Tensor:
    """Which of `size` pixels a stretch of `side` of them covers that begins anywhere inside, [B, size]."""
    first = (place * (size - side + 1)).floor()[:, None]
    pixels = torch.arange(size, device=place.device)
    return (pixels >= first) & (pixels < first + side[:, None])


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma [B, 1, H, W], as PIL and torchvision have it; of one channel itself."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _unit(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _like(images: Tensor, changed: Tensor) -> Tensor:
    return (changed * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else changed
