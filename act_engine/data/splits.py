"""What a data source gives: images and labels of its splits, before they become batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from act_engine.data.files import ImageFiles


@dataclass(frozen=True)
class Pictures:
    """Decoded images `[N, H, W, C]`, uint8 or float32 in [0, 1], and their labels `[N]`, integers from 0 on."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, kept: np.ndarray) -> Pictures:
        """The images whose indices are `kept`."""
        return Pictures(self.images[kept], self.labels[kept])

    def relabelled(self, labels: np.ndarray) -> Pictures:
        """The same images with other labels `[N]`."""
        return replace(self, labels=labels)


@dataclass(frozen=True)
class Splits:
    """A data set as its source reads it.

    `selection`: a validation split of its own beside the test split, to choose checkpoints by. `classes`: their names
    in label order, where it names them. `notes`: what a user should be told of how the data was read, a line each.
    `bad`: a line about each unusable image that was left out. `unused`: by split and kind, the names of files that were
    left aside. `test` None: there is no such split, and part of the training images has to be held out. `train` None:
    it was not asked for.
    """

    train: Pictures | ImageFiles | None
    test: Pictures | ImageFiles | None
    num_classes: int
    selection: Pictures | ImageFiles | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    unused: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
