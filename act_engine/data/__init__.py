"""Data sources behind one contract: in-memory arrays on the device, and image folders and tar shards through DALI."""

from __future__ import annotations

import difflib

import torch

from act_engine.data import sources
from act_engine.data.arrays import ArrayLoader
from act_engine.data.contract import Batch, Data, Loader

__all__ = ["DATA_NAMES", "Batch", "Data", "Loader", "build_data"]

DATA_NAMES = ("digits",)


def build_data(
    name: str,
    *,
    path: str | None = None,
    batch_size: int,
    eval_batch_size: int | None = None,
    workers: int = 2,
    seed: int = 0,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    augment: str | None = None,
) -> Data:
    """Return the train and test loaders of data set `name` for this rank.

    `batch_size` and `eval_batch_size` (default: the same) are images a step and process. `augment` None is the data
    set's own: `none` for digits.
    ValueError or FileNotFoundError name the setting that is wrong.
    """
    if name not in DATA_NAMES:
        close = difflib.get_close_matches(name, DATA_NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"data.name: unknown data set {name!r}{hint} (known: {', '.join(DATA_NAMES)})")
    arrays = sources.digits()
    shard = {"seed": seed, "rank": rank, "world_size": world_size}
    train = ArrayLoader(
        arrays.train_images,
        arrays.train_labels,
        batch_size,
        shuffle=True,
        augment=augment or "none",
        device=device,
        **shard,
    )
    test = ArrayLoader(
        arrays.test_images, arrays.test_labels, eval_batch_size or batch_size, shuffle=False, device=device, **shard
    )
    height, width, channels = arrays.train_images.shape[1:]
    return Data(train, test, arrays.num_classes, (channels, height, width))
