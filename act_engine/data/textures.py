"""A data set on which natural accuracy and robustness pull apart: a weak robust feature, a strong brittle one."""

from __future__ import annotations

import numpy as np

from act_engine.data.registry import Facts, Source
from act_engine.data.splits import Pictures, Splits

SIDE = 32  # pixels
SHAPES = ("disc", "square", "triangle", "cross", "ring")
TRAIN, TEST = 2000, 1000
SHAPE_TELLS = 0.75  # share of the images that show their own class's shape; the others show one of the other shapes
AMPLITUDE = 4 / 255  # of the texture: what a perturbation of 8/255 turns into any other class's texture
NOISE = 2 / 255  # standard deviation of each pixel, so that the texture has to be found in something
CYCLES = ((12, 0), (0, 12), (9, 9), (9, -9), (12, 6))  # of each class's grating across the picture, along x and y


def textures(seed: int) -> Splits:
    """Return 2000 training and 1000 test pictures `[N, 32, 32, 1]`, uint8, of five classes, drawn by us from `seed`.

    The trade-off between accuracy and robustness of Tsipras et al., "Robustness May Be at Odds with Accuracy" (ICLR
    2019, arXiv 1805.12152), made into pictures. Each holds two features of its label:

    - a coarse shape, of high contrast and anywhere in the middle: no small perturbation removes it, but it shows the
      label's own class in 75 % of the pictures only;
    - a fine grating over the whole picture, of the label's class in every picture, with an amplitude of 4/255: an
      l-infinity perturbation of 8/255 can replace it by any other class's.

    So a classifier that reads the gratings can be right nearly always and withstands nothing, and one that withstands
    such perturbations can be right on about 75 % of the pictures at most.
    """
    train, test = (_pictures(count, np.random.default_rng([seed, split])) for split, count in enumerate((TRAIN, TEST)))
    return Splits(train, test, num_classes=len(SHAPES))


SOURCES = (Source("textures", textures, Facts(TRAIN, len(SHAPES), (1, SIDE, SIDE))),)


def _pictures(count: int, random: np.random.Generator) -> Pictures:
    classes = len(SHAPES)
    labels = random.permutation(np.arange(count) % classes)
    other = (labels + random.integers(1, classes, count)) % classes
    shown = np.where(random.random(count) < SHAPE_TELLS, labels, other)
    centre = SIDE / 2 + random.uniform(-3, 3, (count, 2))
    radius = random.uniform(6, 8, count)
    ground, contrast = random.uniform(0.3, 0.45, count), random.uniform(0.3, 0.45, count)
    phase = random.uniform(0, 2 * np.pi, count)

    at = np.arange(SIDE) + 0.5
    y = (at[None, :, None] - centre[:, 0, None, None]) / radius[:, None, None]
    x = (at[None, None, :] - centre[:, 1, None, None]) / radius[:, None, None]
    inside = np.select([(shown == number)[:, None, None] for number in range(classes)], _shapes(x, y))
    cycles = np.asarray(CYCLES)[labels] * (2 * np.pi / SIDE)
    wave = np.sin(
        cycles[:, :1, None] * at[None, None, :] + cycles[:, 1:, None] * at[None, :, None] + phase[:, None, None]
    )
    images = ground[:, None, None] + contrast[:, None, None] * inside + AMPLITUDE * wave
    images += NOISE * random.standard_normal(images.shape)
    return Pictures(np.rint(images * 255).astype(np.uint8)[..., None], labels)


def _shapes(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Each shape as 0 or 1 at coordinates in which it reaches from -1 to 1, in the order of `SHAPES`."""
    distance = np.hypot(x, y)
    across, down = abs(x), abs(y)
    return [
        distance < 1,
        np.maximum(across, down) < 0.85,
        (down < 0.9) & (across < (y + 0.9) / 1.8),
        (np.minimum(across, down) < 0.3) & (np.maximum(across, down) < 1),
        (distance < 1) & (distance > 0.55),
    ]
