"""MixUp and CutMix: a step's images mixed in pairs, and their labels with them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from act_engine.attack import MixedLabels, unit_range
from act_engine.training.seeds import stream


class Mixing:
    """Mixes image i of a process's batch of B with image B − 1 − i, as timm does; one share and box for the whole step.

    MixUp (Zhang et al. 2018, arXiv 1710.09412): share · x_i + (1 − share) · x_j. CutMix (Yun et al. 2019, arXiv
    1905.04899): a box of x_j in x_i, of 1 − share of its area before it is cut at the edges; the share is then that of
    the pixels. The shares are drawn from Beta(alpha, alpha). Every draw is a function of (seed, step).

    Args:
        mixup: MixUp's alpha; 0: no MixUp.
        cutmix: CutMix's alpha; 0: no CutMix.
        probability: that a step mixes at all.
        switch: where there are both, the probability that it is CutMix.
    """

    def __init__(self, mixup: float, cutmix: float, probability: float, switch: float, seed: int) -> None:
        self.mixup, self.cutmix, self.probability, self.seed = mixup, cutmix, probability, seed
        self.switch = switch if mixup and cutmix else float(cutmix > 0)

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, MixedLabels]:
        """The images [B, C, H, W] in [0, 1] of a step, and their labels; those that came stay as they are."""
        random = np.random.default_rng(stream(self.seed, step, "mixing"))
        mixes, cuts = random.random(2) < (self.probability, self.switch)
        images, share = unit_range(images), 1.0
        if mixes and cuts:
            top, bottom, left, right = self._box(random, *images.shape[-2:])
            share = 1 - (bottom - top) * (right - left) / images[0, 0].numel()
            mixed = images.clone()
            mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
            images = mixed
        elif mixes:
            share = float(random.beta(self.mixup, self.mixup))
            images = share * images + (1 - share) * images.flip(0)
        shares = torch.full(labels.shape, share, dtype=images.dtype, device=labels.device)
        return images, MixedLabels(labels, labels.flip(0), shares)

    def _box(self, random: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        side = math.sqrt(1 - random.beta(self.cutmix, self.cutmix))
        middle = random.integers(0, (height, width))
        half = np.array([int(height * side), int(width * side)]) // 2
        low, high = np.maximum(middle - half, 0), np.minimum(middle + half, (height, width))
        return int(low[0]), int(high[0]), int(low[1]), int(high[1])
