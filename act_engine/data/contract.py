"""What every data source gives the trainer: batches of [0, 1] images, in an order that can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """Images `[B, C, H, W]`, uint8 (meaning x / 255) or float32 in [0, 1], and labels `[B]` int64, on one device."""

    images: Tensor
    labels: Tensor


class Loader(Protocol):
    """Batches of one split for one rank.

    A train loader shuffles, drops the last partial batch and has the same number of steps on every rank. A test loader
    goes through the images in order and covers each exactly once over all ranks, so the ranks' image counts may differ
    by one, the last batch may be smaller, and the number of steps may differ between ranks (0 where ranks outnumber
    images): a loop over a test loader must hold no per-step collective.
    """

    num_samples: int  # images in the split, over all ranks
    batch_size: int  # images a step on this rank

    def __len__(self) -> int:
        """Steps an epoch on this rank."""

    def epoch(self, index: int) -> Iterator[Batch]:
        """Yield pass number `index`; its order and augmentation are a function of (seed, index) only."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch handed out, as JSON values."""

    def identity(self) -> dict[str, Any]:
        """Return what tells the split from another wherever it lies, as JSON values; see `identity_of`."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `epoch(index)` go on exactly there; ValueError when the data or its sharding is another."""


@dataclass(frozen=True)
class Data:
    """The splits of a data set and what a model needs to know of them.

    `image_shape` is (C, H, W); `bad_images` counts the unusable ones that were left out. `selection` holds images to
    choose checkpoints by, which are neither trained on nor reported on; None: not asked for. `classes` are their names
    in label order, where the data names them. `notes` tell how the data was read, a line each; `unused` the names of
    files that were left aside, by split and kind. `train` is None only where it was not asked for.
    """

    train: Loader
    test: Loader
    num_classes: int
    image_shape: tuple[int, int, int]
    bad_images: int = 0
    selection: Loader | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    unused: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
