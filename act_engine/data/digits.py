"""scikit-learn's handwritten digits: a data set that needs no download."""

from __future__ import annotations

import functools

import numpy as np

from act_engine.data.registry import Facts, Source
from act_engine.data.splits import Pictures, Splits


@functools.cache
def digits() -> Splits:
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
    return Splits(Pictures(train_images, train_labels), Pictures(test_images, test_labels), num_classes=10)


SOURCES = (Source("digits", digits, Facts(images=1297, num_classes=10, shape=(1, 8, 8))),)
