"""Which part of each image is shown: random resized crops to train, the centre to test."""

from __future__ import annotations

import numpy as np

SCALE = (0.08, 1.0)  # share of the image's area
RATIO = (3 / 4, 4 / 3)  # width / height
ATTEMPTS = 10
CROP_DRAWS = 2 * ATTEMPTS + 2  # random numbers that a crop takes


def random_resized_crops(drawn: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return one crop for each image: sizes `[B, 2]` (height, width) → `[B, 4]` int32 (top, left, height, width).

    `drawn` `[B, CROP_DRAWS]` are uniform numbers in [0, 1).

    The distribution of torchvision's RandomResizedCrop (Szegedy et al., 2015): area uniform in SCALE, aspect ratio
    log-uniform in RATIO, up to 10 attempts to fit, then the largest central crop of an allowed ratio.
    """
    height, width = sizes[:, :1].astype(np.int64), sizes[:, 1:].astype(np.int64)
    area_drawn, ratio_drawn, place = np.split(drawn, [ATTEMPTS, 2 * ATTEMPTS], axis=1)
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * area_drawn)
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * ratio_drawn)
    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths >= 1) & (heights >= 1) & (widths <= width) & (heights <= height)
    first = fits.argmax(1)[:, None]
    crop_width, crop_height = np.take_along_axis(widths, first, 1), np.take_along_axis(heights, first, 1)
    top = (place[:, :1] * (height - crop_height + 1)).astype(np.int64)
    left = (place[:, 1:] * (width - crop_width + 1)).astype(np.int64)

    full_width = np.clip(np.rint(height * RATIO[1]).astype(np.int64), 1, width)
    full_height = np.clip(np.rint(width / RATIO[0]).astype(np.int64), 1, height)
    central = np.hstack([(height - full_height) // 2, (width - full_width) // 2, full_height, full_width])
    crops = np.where(fits.any(1, keepdims=True), np.hstack([top, left, crop_height, crop_width]), central)
    return crops.astype(np.int32)


def centre_crops(sizes: np.ndarray, resize: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the evaluation geometry, torchvision's Resize(resize) and CenterCrop(crop), for sizes `[B, 2]`.

    First `[B, 2]` int32: the height and width to resize to (the shorter side `resize`, the other rounded down); then
    `[B, 2]` int32: top and left of the central crop.
    """
    shorter = sizes.min(1, keepdims=True)
    resized = sizes * resize // shorter
    corner = np.rint((resized - crop) / 2)  # half to even, as Python's round in torchvision
    return resized.astype(np.int32), corner.astype(np.int32)
