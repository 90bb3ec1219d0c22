"""Data sets as arrays: where the pictures and labels of the in-memory sources come from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """Images `[N, H, W, C]`, uint8 or float32 in [0, 1], and labels `[N]`, of both splits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int


def digits() -> Arrays:
    """Return scikit-learn's 8x8 handwritten digits as float32 (grey / 16), 1297 to train and 500 to test.

    The split is stratified and fixed, whatever the run's seed, so that accuracies of different runs compare.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=500, stratify=labels, random_state=0
    )
    return Arrays(train_images, train_labels, test_images, test_labels, num_classes=10)
