"""Labels that came as plain numbers: what is asked about before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def count_classes(
    labels: Mapping[str, np.ndarray],
    num_classes: int | None,
    name: Callable[[str, int], str],
    notes: list[str],
) -> int:
    """Return how many classes the labels of the splits (`"train"`, `"test"`, …) tell apart, or ask about them.

    Without the split `"train"` only labels that are too high are refused. `num_classes` is what the user said, which
    allows for classes without images; that is noted. `name` says of a split and an index which image that is.

    Raises:
        ValueError: a label is negative or too high, the labels begin at 1, or training lacks a class.
    """
    images = sum(map(len, labels.values()))
    for split, values in labels.items():
        limit = num_classes or images  # more classes than images cannot be meant
        wrong = np.flatnonzero((values < 0) | (values >= limit))
        if not len(wrong):
            continue
        value, first = int(values[wrong[0]]), name(split, int(wrong[0]))
        if value < 0 or num_classes is None:
            raise ValueError(
                f"data.path: {first} has label {value} ({len(wrong)} such image(s)); allowed: 0 to {limit - 1}"
                + ("" if num_classes else ", less than there are images")
            )
        ask = "; the labels begin at 1, subtract 1" if _begin_at_one(next(iter(labels.values()))) else ""
        raise ValueError(
            f"model.num_classes: got {num_classes}, but {first} has label {value} ({len(wrong)} such image(s)); "
            f"allowed: labels of 0 to {num_classes - 1}{ask}"
        )
    found = 1 + max(int(values.max()) for values in labels.values())
    if "train" not in labels:
        return found
    present = np.zeros(num_classes or found, bool)
    present[labels["train"]] = True
    missing = np.flatnonzero(~present[:found])
    if len(missing) and missing[0] == 0 and _begin_at_one(labels["train"]):
        raise ValueError(
            f"data.path: the training labels are 1 to {int(labels['train'].max())}, {name('train', 0)} first; they are "
            "counted from 0 here: subtract 1"
        )
    if len(missing) and num_classes is None:
        raise ValueError(
            f"data.path: no training image has label {missing[0]} ({len(missing)} such class(es) among 0 to "
            f"{found - 1}); number the classes without gaps, or give --model.num_classes {found} if it is meant so"
        )
    if num_classes and not present.all():
        notes.append(f"train: {int((~present).sum())} of {num_classes} classes have no image (model.num_classes)")
    return found


def _begin_at_one(labels: np.ndarray) -> bool:
    return np.array_equal(np.unique(labels), np.arange(1, labels.max() + 1))
