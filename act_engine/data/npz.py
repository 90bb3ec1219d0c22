"""Images and labels as NumPy arrays in one .npz file, by the names that are in use."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from act_engine.data.foreign import BadFile, parsing
from act_engine.data.labels import count_classes
from act_engine.data.registry import Source
from act_engine.data.splits import Pictures, Splits

SPLITS = {"train": True, "test": True, "val": False}  # whether the file must hold it
NAMES = {"images": ("{}_images", "x_{}"), "labels": ("{}_labels", "y_{}")}  # MedMNIST's and ours; Keras'
CHANNELS = (1, 2, 3, 4)
SAFE_BYTES, MOST_EXPANSION = (
    64 * 2**20,
    200,
)  # an array above this size may be at most so much larger than its zip entry


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def npz(path: str | None, num_classes: int | None = None, train: bool = True) -> Splits:
    """Read `train_images`, `train_labels`, `test_images`, `test_labels` of an .npz file, or Keras' x_train, y_train, …

    Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`, uint8 or floats in [0, 1]; labels are `[N]` or `[N, 1]`
    integers from 0 on. `val_images` and `val_labels` (x_val, y_val), if there, are what checkpoints are chosen by.
    Pickled objects in the file are refused. Without `train` the file need not hold training images, and none are read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is another kind of file, or its arrays are not as above; one line.
    """
    if path is None or not Path(path).exists():
        raise FileNotFoundError(f"data.path: there is no file {path}; npz needs the path of an .npz file")
    if not Path(path).is_file():
        raise ValueError(f"data.path: {path} is no regular file; npz needs the path of an .npz file")
    with parsing(path, "is not an .npz file of plain arrays"):
        with open(path, "rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise BadFile(f"data.path: {path} is one array (.npy); npz needs an .npz file of {_wanted()}")
        with zipfile.ZipFile(path) as archive:
            arrays = _read(archive, path, train)
    notes: list[str] = []
    parts = {split: _pictures(arrays, split, path, notes) for split in SPLITS if f"{split} images" in arrays}
    _check_alike(parts, path)
    labels = {split: arrays[f"{split} labels"] for split in SPLITS if f"{split} labels" in arrays}
    count = count_classes(labels, num_classes, lambda split, index: f"image {index} of {path}'s {split}_images", notes)
    return Splits(parts.get("train"), parts["test"], count, selection=parts.get("val"), notes=tuple(notes))


def _wanted(train: bool = True) -> str:
    return "train_images, train_labels, test_images, test_labels" if train else "test_images, test_labels"


def _read(archive: zipfile.ZipFile, path: str, train: bool) -> dict[str, np.ndarray]:
    """The arrays by "SPLIT KIND". All headers are judged before any array is read."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    members: dict[str, zipfile.ZipInfo] = {}
    for split, always in SPLITS.items():
        for kind, patterns in NAMES.items():
            needed = always and (train or split == "test")
            names = [pattern.format(split) for pattern in patterns if f"{pattern.format(split)}.npy" in entries]
            if not names and needed:
                raise BadFile(
                    f"data.path: {path} has no array {patterns[0].format(split)!r}; it needs {_wanted(train)}"
                )
            if len(names) > 1:
                raise BadFile(f"data.path: {path} holds both {names[0]} and {names[1]}; keep one of the two")
            if names:
                members[f"{split} {kind}"] = entries[f"{names[0]}.npy"]
    if ("val images" in members) != ("val labels" in members):
        raise BadFile(f"data.path: {path} holds only one of val_images and val_labels; it needs both or neither")
    headers = {part: _header(archive, entry, path) for part, entry in members.items()}
    arrays = {}
    for split in SPLITS:
        if all(f"{split} {kind}" in members for kind in NAMES):
            _check_shapes(headers[f"{split} images"], headers[f"{split} labels"], split, path)
            for kind in NAMES if train or split == "test" else ["labels"]:  # by which the classes are counted
                with archive.open(members[f"{split} {kind}"]) as file:
                    arrays[f"{split} {kind}"] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str) -> _Header:
    name = entry.filename.removesuffix(".npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise BadFile(f"data.path: {path}: {name} is of .npy version {version}; allowed: 1.0 and 2.0")
        header = _Header(*read[version](file))
    if header.dtype.hasobject:
        raise BadFile(f"data.path: {path} is not an .npz file of plain arrays ({name} holds Python objects)")
    size = math.prod(header.shape) * header.dtype.itemsize
    if size > entry.file_size:
        raise BadFile(f"data.path: {path}: {name} says it is {list(header.shape)}, and the file holds fewer bytes")
    if size > max(SAFE_BYTES, MOST_EXPANSION * entry.compress_size):
        raise BadFile(
            f"data.path: {path}: {name} would grow from {entry.compress_size:,} to {size:,} bytes; allowed: "
            f"{MOST_EXPANSION} times, which no set of pictures exceeds"
        )
    return header


def _check_shapes(images: _Header, labels: _Header, split: str, path: str) -> None:
    name = f"{path}: {split}_images"
    if len(images.shape) not in (3, 4) or min(images.shape) < 1:
        raise BadFile(
            f"data.path: {name} has shape {list(images.shape)}; it must be [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise BadFile(f"data.path: {name} is {images.dtype}; it must be uint8, or floats in [0, 1]")
    allowed = (images.shape[:1], (images.shape[0], 1))
    if labels.shape not in allowed or not np.issubdtype(labels.dtype, np.integer):
        raise BadFile(
            f"data.path: {path}: {split}_labels is {labels.dtype} {list(labels.shape)}; it must be integers from 0 "
            f"on, one for each of the {images.shape[0]} images"
        )


def _pictures(arrays: dict[str, np.ndarray], split: str, path: str, notes: list[str]) -> Pictures:
    images, labels = arrays[f"{split} images"], arrays[f"{split} labels"].reshape(-1)
    name = f"{path}: {split}_images"
    if images.ndim == 3:
        images = images[..., None]
    elif images.shape[1] in CHANNELS and images.shape[3] not in CHANNELS:
        notes.append(f"{split}: images are [N, C, H, W] in the file ({list(images.shape)}), and read so")
        images = images.transpose(0, 2, 3, 1)
    if images.dtype == np.uint8:
        if images.max() == 1:
            raise ValueError(
                f"data.path: {name} is uint8 with no value above 1; uint8 pixels are 0 to 255: multiply by 255, or "
                "store floats in [0, 1]"
            )
        return Pictures(np.ascontiguousarray(images), labels)
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"data.path: {name} is {images.dtype} outside [0, 1]; it must be uint8, or floats in [0, 1]")
    return Pictures(np.ascontiguousarray(images, np.float32), labels)


def _check_alike(parts: dict[str, Pictures], path: str) -> None:
    first = next(iter(parts))
    shape = parts[first].images.shape[1:]
    for split, part in parts.items():
        if part.images.shape[1:] != shape:
            raise ValueError(
                f"data.path: {path}: {split}_images has pictures of {list(part.images.shape[1:])} (H, W, C), "
                f"{first}_images of {list(shape)}; all splits need the same"
            )


SOURCES = (Source("npz", npz, augmentations=("none", "crop_flip")),)
