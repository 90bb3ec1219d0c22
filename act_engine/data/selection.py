"""Which images of a data set are used, and with which labels: first classes, subsets, held-out ones, label noise."""

from __future__ import annotations

import numpy as np

from act_engine.data.sources import Arrays


def select(
    arrays: Arrays,
    *,
    classes: int | None = None,
    train_samples: int | None = None,
    validation_samples: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Arrays:
    """The part of a data set that a run uses; each choice is a function of `seed` and of its own argument alone.

    Args:
        arrays: the whole data set.
        classes: keep the images of the first so many classes, in both splits.
        train_samples: keep so many training images, every class as often (to one) as the data has it.
        validation_samples: put so many training images, balanced likewise, in the test images' place; they are the
            same ones whatever `train_samples` is, and are trained on by nobody.
        label_noise: replace each training label with this probability by one drawn uniformly from all classes, its own
            among them (Zhang et al. 2017, arXiv 1611.03530).

    Raises:
        ValueError: more is asked for than there is; the setting is named.
    """
    if classes is not None:
        _require(2 <= classes <= arrays.num_classes, "classes", classes, f"2 to {arrays.num_classes}")
        train, test = arrays.train_labels < classes, arrays.test_labels < classes
        arrays = Arrays(
            arrays.train_images[train],
            arrays.train_labels[train],
            arrays.test_images[test],
            arrays.test_labels[test],
            classes,
        )
    if validation_samples is not None:
        images, labels = arrays.train_images, arrays.train_labels
        count = len(labels)
        _require(1 <= validation_samples < count, "validation_samples", validation_samples, f"1 to {count - 1}")
        held = balanced(labels, validation_samples, np.random.default_rng([seed, 1]))
        rest = np.setdiff1d(np.arange(count), held)
        arrays = arrays._replace(
            train_images=images[rest], train_labels=labels[rest], test_images=images[held], test_labels=labels[held]
        )
    if train_samples is not None:
        count = len(arrays.train_labels)
        _require(1 <= train_samples <= count, "train_samples", train_samples, f"1 to {count}")
        kept = balanced(arrays.train_labels, train_samples, np.random.default_rng([seed, 2]))
        arrays = arrays._replace(train_images=arrays.train_images[kept], train_labels=arrays.train_labels[kept])
    if label_noise:
        random = np.random.default_rng([seed, 3])
        labels = arrays.train_labels
        replaced = random.random(len(labels)) < label_noise
        drawn = random.integers(0, arrays.num_classes, len(labels))
        arrays = arrays._replace(train_labels=np.where(replaced, drawn, labels).astype(labels.dtype))
    return arrays


def balanced(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Indices, rising, of `count` random images in which the classes' counts differ by at most one where they can."""
    order = random.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:count])


def _require(condition: bool, setting: str, value: int, allowed: str) -> None:
    if not condition:
        raise ValueError(f"data.{setting}: {value} given; allowed with this data set: {allowed}")
