"""Which images of a data set are used, and with which labels: first classes, subsets, held-out ones, label noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from act_engine.data.splits import Pictures, Splits

if TYPE_CHECKING:
    from act_engine.data.files import ImageFiles

SELECTION_IMAGES, SELECTION_SHARE = 1000, 0.02  # usual number of images to choose checkpoints by; share of a small set


def select(
    splits: Splits,
    *,
    classes: int | None = None,
    train_samples: int | None = None,
    validation_samples: int | None = None,
    selection_samples: int | None = None,
    selection: bool = False,
    holdout: float | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Splits:
    """The part of a data set that a run uses; each choice is a function of `seed` and of its own argument alone.

    Args:
        splits: the whole data set, in memory or as files.
        classes: keep the images of the first so many classes, in every split.
        train_samples: keep so many training images, every class as often (to one) as the data has it.
        validation_samples: put so many training images, balanced likewise, in the test images' place; they are the
            same ones whatever `train_samples` is, and are trained on by nobody.
        selection_samples: hold so many images, balanced likewise, to choose checkpoints by: of the data's own
            validation split where it has one beside the test split, else training images, which are then trained on
            by nobody.
        selection: hold the usual number: 1,000, or 2 % of a set of fewer than 50,000 training images. Without it and
            without `selection_samples` there are none.
        holdout: take this share of each class's training images as the test images, where the data has none.
        label_noise: replace each training label with this probability by one drawn uniformly from all classes, its own
            among them (Zhang et al. 2017, arXiv 1611.03530).

    Raises:
        ValueError: more is asked for than there is; the setting is named.
    """
    if holdout is not None:
        _require(0 < holdout < 1, "holdout", holdout, "above 0, below 1")
        _require(splits.test is None, "holdout", holdout, "null, for it has held-out images of its own")
        test, train = _share(splits.train, holdout, np.random.default_rng([seed, 5]))
        splits = replace(splits, train=train, test=test)
    if classes is not None:
        _require(2 <= classes <= splits.num_classes, "classes", classes, f"2 to {splits.num_classes}")
        names = ("train", "test", "selection")
        parts = {name: part for name in names if (part := getattr(splits, name)) is not None}
        kept = {name: part.keep(np.flatnonzero(part.labels < classes)) for name, part in parts.items()}
        named = splits.classes and splits.classes[:classes]
        splits = replace(splits, **kept, num_classes=classes, classes=named)
    whole = 0 if splits.train is None else len(splits.train)
    if validation_samples is not None:
        held, train = _hold(splits.train, "validation_samples", validation_samples, np.random.default_rng([seed, 1]))
        splits = replace(splits, train=train, test=held)
    if selection_samples is None and selection:
        selection_samples = usual_selection(whole)
    if selection_samples is None:
        splits = replace(splits, selection=None)
    elif splits.selection is not None:
        count = min(selection_samples, len(splits.selection))
        kept = balanced(splits.selection.labels, count, np.random.default_rng([seed, 4]))
        splits = replace(splits, selection=splits.selection.keep(kept))
    else:
        held, train = _hold(splits.train, "selection_samples", selection_samples, np.random.default_rng([seed, 4]))
        splits = replace(splits, train=train, selection=held)
    if train_samples is not None and splits.train is not None:
        count = len(splits.train)
        _require(1 <= train_samples <= count, "train_samples", train_samples, f"1 to {count}")
        kept = balanced(splits.train.labels, train_samples, np.random.default_rng([seed, 2]))
        splits = replace(splits, train=splits.train.keep(kept))
    if label_noise and splits.train is not None:
        random = np.random.default_rng([seed, 3])
        labels = splits.train.labels
        replaced = random.random(len(labels)) < label_noise
        drawn = random.integers(0, splits.num_classes, len(labels))
        noisy = np.where(replaced, drawn, labels).astype(labels.dtype)
        splits = replace(splits, train=splits.train.relabelled(noisy))
    return splits


def usual_selection(train_images: int) -> int:
    """How many images to choose checkpoints by, out of so many training images."""
    return max(1, min(SELECTION_IMAGES, round(SELECTION_SHARE * train_images)))


def balanced(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Indices, rising, of `count` random images in which the classes' counts differ by at most one where they can."""
    order = random.permutation(len(labels))
    rank = _rank_in_class(labels[order])
    return np.sort(order[np.argsort(rank, kind="stable")][:count])


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """How many images of the same class come before each."""
    by_class = np.argsort(labels, kind="stable")
    begins = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - begins
    return rank


Part = TypeVar("Part", "Pictures", "ImageFiles")


def _hold(part: Part, setting: str, count: int, random: np.random.Generator) -> tuple[Part, Part]:
    """`count` images of `part`, classes balanced, and all the others."""
    _require(1 <= count < len(part), setting, count, f"1 to {len(part) - 1}")
    return _apart(part, balanced(part.labels, count, random))


def _share(part: Part, share: float, random: np.random.Generator) -> tuple[Part, Part]:
    """A share of the images of each class, rounded, and at least one where it has two; and all the others."""
    order = random.permutation(len(part))
    labels = part.labels[order]
    counts = np.bincount(labels)[labels]
    wanted = np.minimum(np.maximum(1, np.rint(share * counts)), counts - 1)
    return _apart(part, np.sort(order[_rank_in_class(labels) < wanted]))


def _apart(part: Part, held: np.ndarray) -> tuple[Part, Part]:
    rest = np.ones(len(part), bool)
    rest[held] = False
    return part.keep(held), part.keep(np.flatnonzero(rest))


def _require(condition: bool, setting: str, value: float, allowed: str) -> None:
    if not condition:
        raise ValueError(f"data.{setting}: got {value}; allowed with this data set: {allowed}")
