"""Data sources behind one contract: in-memory arrays on the device, and image folders and tar shards through DALI."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from act_engine.data import sources, textures
from act_engine.data.arrays import ArrayLoader
from act_engine.data.contract import Batch, Data, Loader
from act_engine.data.selection import select

__all__ = ["DATA_NAMES", "Batch", "Data", "Loader", "build_data"]

DATA_NAMES = ("digits", "textures", "cifar10", "cifar100", "npz", "image_folder", "webdataset")
AUGMENTATIONS = {
    "digits": ("none",),
    "textures": ("none",),
    "cifar10": ("crop_flip", "none"),
    "cifar100": ("crop_flip", "none"),
    "npz": ("none", "crop_flip"),
    "image_folder": ("resized_crop_flip", "randaugment", "none"),
    "webdataset": ("resized_crop_flip", "randaugment", "none"),
}  # what each data set can do; the first is its default

logger = logging.getLogger(__name__)


def build_data(
    name: str,
    *,
    path: str | None = None,
    batch_size: int,
    eval_batch_size: int | None = None,
    workers: int = 2,
    seed: int = 0,
    order_seed: int = 0,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    augment: str | None = None,
    num_classes: int | None = None,
    classes: int | None = None,
    train_samples: int | None = None,
    validation_samples: int | None = None,
    label_noise: float = 0.0,
    image_size: int = 224,
    eval_resize: int | None = None,
    train_sizes: Sequence[int] = (),
    train_size_epochs: Sequence[int] = (),
    bad_images: str = "error",
    download: bool = False,
) -> Data:
    """Return the train and test loaders of data set `name` for this rank.

    `path`: where the data lies. `batch_size` and `eval_batch_size` (default: the same): images a step and process.
    `workers`: threads that read and decode. `augment` None is the data set's own (`AUGMENTATIONS`). `num_classes`:
    checked against the data, whose own count it replaces. `order_seed` decides order and augmentation.
    For the data sets in memory: `classes`, `train_samples`, `validation_samples` and `label_noise` as in `select`, and
    `seed`, which decides these choices and what textures draws.
    For image_folder and webdataset: `image_size` is the side of a picture in pixels, `eval_resize` (default:
    image_size / 0.875) the shorter side before the evaluation's centre crop; `train_sizes` are the sizes in training
    before, between and after the epochs `train_size_epochs` (empty: `image_size`).
    `bad_images`: "error" stops at an unusable image, "skip" leaves such images out and says how many (also in
    `Data.bad_images`). `download` lets cifar10 and cifar100 be fetched into `path`.
    ValueError or FileNotFoundError name the setting that is wrong.
    """
    if name not in DATA_NAMES:
        close = difflib.get_close_matches(name, DATA_NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"data.name: unknown data set {name!r}{hint} (known: {', '.join(DATA_NAMES)})")
    augment = augment or AUGMENTATIONS[name][0]
    if augment not in AUGMENTATIONS[name]:
        allowed = ", ".join(AUGMENTATIONS[name])
        raise ValueError(f"data.augment: {augment!r} given; {name} allows {allowed}")
    if workers < 1:
        raise ValueError(f"data.workers: {workers} given; it must be at least 1")
    order = {"seed": order_seed, "rank": rank, "world_size": world_size}
    eval_batch_size = eval_batch_size or batch_size
    part = {
        "classes": classes,
        "train_samples": train_samples,
        "validation_samples": validation_samples,
        "label_noise": label_noise,
    }

    if name in ("image_folder", "webdataset"):
        for setting, value in part.items():
            if value:
                raise ValueError(f"data.{setting}: {value} given; {name} is used as it is, so it must be left out")
        splits, bad, found_classes = _image_files(name, path, num_classes, workers, bad_images)
        eval_resize = eval_resize or round(image_size / 0.875)
        _check_sizes(image_size, eval_resize, train_sizes, train_size_epochs)
        from act_engine.data.dali import DaliLoader

        view: dict[str, Any] = {
            "image_size": image_size,
            "eval_resize": eval_resize,
            "workers": workers,
            "device": device,
            **order,
        }
        train = DaliLoader(
            splits[0],
            batch_size,
            shuffle=True,
            augment=augment,
            train_sizes=train_sizes,
            train_size_epochs=train_size_epochs,
            **view,
        )
        test = DaliLoader(splits[1], eval_batch_size, shuffle=False, **view)
        shape = (3, image_size, image_size)
    else:
        bad = []
        if name == "digits":
            arrays = sources.digits()
        elif name == "textures":
            arrays = textures.textures(seed)
        elif name == "npz":
            arrays = sources.npz(path)
        else:
            arrays, bad = sources.cifar(name, path, download=download, workers=workers, bad_images=bad_images)
        arrays = select(arrays, seed=seed, **part)
        found_classes = arrays.num_classes
        if num_classes is not None and num_classes < found_classes:
            raise ValueError(f"model.num_classes: {num_classes} given, but {name} has labels up to {found_classes - 1}")
        train = ArrayLoader(
            arrays.train_images,
            arrays.train_labels,
            batch_size,
            shuffle=True,
            augment=augment,
            device=device,
            **order,
        )
        test = ArrayLoader(
            arrays.test_images, arrays.test_labels, eval_batch_size, shuffle=False, device=device, **order
        )
        height, width, channels = arrays.train_images.shape[1:]
        shape = (channels, height, width)
    if bad and rank == 0:
        logger.warning("data.bad_images: left out %d image(s); the first: %s", len(bad), bad[0])
    return Data(train, test, num_classes or found_classes, shape, bad_images=len(bad))


def _image_files(
    name: str, path: str | None, num_classes: int | None, workers: int, bad_images: str
) -> tuple[list[Any], list[str], int]:
    """Return the checked files of both splits, a line about each bad image, and the number of classes."""
    from act_engine.data import files

    splits, bad = [], []
    classes = None
    for folder in files.split_folders(path, name):
        listed = files.class_folders(folder, classes) if name == "image_folder" else files.tar_shards(folder)
        split, bad_here = files.checked(listed, bad_images=bad_images, threads=workers)
        classes = split.classes
        splits.append(split)
        bad += bad_here
    found = len(classes) if classes is not None else int(np.max(splits[0].labels)) + 1
    for split in splits:
        files.require_labels_below(split, num_classes or found)
    return splits, bad, found


def _check_sizes(
    image_size: int, eval_resize: int, train_sizes: Sequence[int], train_size_epochs: Sequence[int]
) -> None:
    for setting, sizes in (("image_size", [image_size]), ("train_sizes", train_sizes)):
        if any(size < 1 for size in sizes):
            raise ValueError(f"data.{setting}: {min(sizes)} given; a size must be at least 1 pixel")
    if eval_resize < image_size:
        raise ValueError(f"data.eval_resize: {eval_resize} given; it must be at least data.image_size, {image_size}")
    if len(train_size_epochs) != max(0, len(train_sizes) - 1):
        raise ValueError(
            f"data.train_size_epochs: {list(train_size_epochs)} given; data.train_sizes {list(train_sizes)} needs "
            f"{max(0, len(train_sizes) - 1)} epoch(s), at which one size gives way to the next"
        )
    if list(train_size_epochs) != sorted(set(train_size_epochs)):
        raise ValueError(f"data.train_size_epochs: {list(train_size_epochs)} given; the epochs must rise")
