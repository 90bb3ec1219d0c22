"""Extra training images, such as a diffusion model's: mapped from the disk, never wholly in memory or on a device."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from act_engine.data.files import ImageFiles
from act_engine.data.foreign import BadFile, expanded, parsing
from act_engine.data.identity import identity_of
from act_engine.data.index import cache_folder
from act_engine.data.splits import Pictures

IMAGES, LABELS = ("image", "images", "train_images", "x_train"), ("label", "labels", "train_labels", "y_train")
ZIP_HEADER, NAME_LENGTH = 30, 26  # bytes of a zip member's own header before its name; where the name's length stands


class Extra:
    """Images `[N, H, W, C]` uint8 and labels `[N]` of one or several files, which stay where they are.

    Args:
        parts: images and labels of each file.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self._images = [images for images, _ in parts]
        self._labels = [labels for _, labels in parts]
        self._begins = np.cumsum([0, *(len(labels) for labels in self._labels)])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def take(self, chosen: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
        """Write the images and labels of the numbers `chosen` `[B]` into `images` and `labels`."""
        if len(self._images) == 1:
            np.take(self._images[0], chosen, 0, images, mode="clip")
            labels[:] = self._labels[0][chosen]
            return
        file = np.searchsorted(self._begins, chosen, side="right") - 1
        for number in np.unique(file):
            here = file == number
            inside = chosen[here] - self._begins[number]
            images[here], labels[here] = self._images[number][inside], self._labels[number][inside]

    def content(self) -> list[Any]:
        """What tells these images from others, wherever they lie: labels, and a thousand images spread over them."""
        parts: list[Any] = []
        for images, labels in zip(self._images, self._labels, strict=True):
            some = np.unique(np.linspace(0, len(images) - 1, 1000).astype(np.int64))
            parts += [repr(images.shape).encode(), np.ascontiguousarray(labels, np.int64), images[some]]
        return parts


def open_extra(
    paths: Sequence[str],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    classes: Sequence[str] | None = None,
    workers: int = 2,
) -> Extra:
    """The extra images of `paths`: .npz files with the arrays image `[N, H, W, C]` uint8 and label `[N]`, or folders.

    Labels may stand in FILE.npz.labels.npy instead (`write_labels`).

    An array that its file holds uncompressed is mapped where it lies, any other from a copy in the user's cache folder.
    A folder of class folders or of webdataset's shards is decoded once, to pictures of `shape` (H, W, C), and kept
    there likewise.

    Raises:
        FileNotFoundError, ValueError: one is not there, is something else, or has other pictures or labels; one line.
    """
    parts = []
    for path in map(expanded, paths):
        _require_there(path)
        if os.path.isfile(path):
            images, labels = arrays(path, (IMAGES, LABELS))
            beside = _labels_file(path)
            if labels is None and os.path.exists(beside):
                with parsing(beside, "is no array", setting="data.extra"):
                    labels = np.load(beside, mmap_mode="r", allow_pickle=False)
        else:
            images, labels = _decoded(path, shape, list_extra(path, num_classes, classes, workers), workers)
        parts.append(_checked(images, labels, path, shape, num_classes))
    return Extra(parts)


def unlabelled(path: str) -> np.ndarray:
    """The images `[N, H, W, C]` uint8 of an .npz file, mapped from the disk, whatever labels it has.

    Raises:
        FileNotFoundError, ValueError: it is not there, or holds none; one line.
    """
    path = expanded(path)
    _require_there(path)
    (images,) = arrays(path, (IMAGES,))
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        got = "no such array" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"data.extra: {path}: image: got {got}; allowed: uint8 [N, H, W, C]")
    return images


def write_labels(path: str, labels: np.ndarray) -> Path:
    """Write `labels` `[N]` beside the .npz file `path`, where `open_extra` looks for them; returns the file."""
    target = _labels_file(expanded(path))

    def save(part: Path) -> None:
        with open(part, "wb") as file:
            np.save(file, labels)

    _write(target, save)
    return target


def _labels_file(path: str) -> Path:
    return Path(f"{path}.labels.npy")


def arrays(path: str, names: Sequence[Sequence[str]]) -> list[np.ndarray | None]:
    """The arrays of an .npz file by the first of each row's names that it holds, mapped from the disk; None: none."""
    with parsing(path, "is not an .npz file of plain arrays", setting="data.extra"), zipfile.ZipFile(path) as archive:
        members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        found = []
        for row in names:
            name = next((name for name in row if name in members), None)
            found.append(None if name is None else _mapped(path, archive, members[name]))
        return found


def list_extra(path: str, num_classes: int, classes: Sequence[str] | None, workers: int) -> ImageFiles:
    """The image files in the class folders of `path`, or in its webdataset shards, with the labels of `classes`.

    Class folders go by the names of `classes`, or by the labels' numbers; they may lack some.
    """
    from act_engine.data.image_folder import indexed_classes, relabelled
    from act_engine.data.webdataset import list_shards

    _require_there(path)
    folder = Path(path)
    try:
        shards = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".tar")
        if shards:
            return list_shards(folder, shards, workers).files
        names = tuple(classes or map(str, range(num_classes)))
        return relabelled(indexed_classes(folder, workers, "auto"), names, folder, whole=False).files
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace("data.path", "data.extra")) from error


def _require_there(path: str) -> None:
    if not os.path.exists(path):
        raise FileNotFoundError(f"data.extra: there is no file or folder {path}; allowed: .npz files, class folders")


def _mapped(path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    if entry.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as file:
            file.seek(entry.header_offset + NAME_LENGTH)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(entry.header_offset + ZIP_HEADER + name + extra)
            return _map_here(path, file)
    copy = _kept(path, entry.filename)
    if not copy.exists():

        def unpack(target: Path) -> None:
            with archive.open(entry) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 2**24)

        _write(copy, unpack)
    with open(copy, "rb") as file:
        return _map_here(copy, file)


def _map_here(path: str | Path, file: Any) -> np.ndarray:
    """The array whose .npy header begins where `file` stands."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise BadFile(f"data.extra: {path} holds an array of .npy version {version}; allowed: 1.0 and 2.0")
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject or fortran or not shape:
        raise BadFile(f"data.extra: {path} holds an array of {dtype}; allowed: plain arrays in C order")
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape)


def _decoded(path: str, shape: tuple[int, int, int], files: ImageFiles, workers: int) -> tuple[np.ndarray, np.ndarray]:
    from act_engine.data.dali import decoded

    height, width, channels = shape
    if height != width or channels != 3:
        raise ValueError(f"data.extra: got the folder {path}; allowed with pictures of {list(shape)}: .npz files")
    digest = identity_of(files.labels, None, files.content())["digest"]
    copy = _kept(path, f"{digest} {height} pixels")
    if not copy.exists():

        def decode(target: Path) -> None:
            with open(target, "wb") as file:
                np.save(file, decoded(files, image_size=height, workers=workers))

        _write(copy, decode)
    return np.load(copy, mmap_mode="r"), files.labels


def _kept(path: str, what: str) -> Path:
    """Where a copy of a part of `path` is kept, as long as that does not change."""
    status = os.stat(path)
    key = f"{os.path.realpath(path)}\0{what}\0{status.st_size}\0{status.st_mtime_ns}"
    return cache_folder() / f"{hashlib.blake2b(key.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.npy"


def _write(file: Path, write: Any) -> None:
    """Let `write` make `file`, which is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, file)
    except OSError as error:
        raise ValueError(f"data.extra: {file} cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def _checked(
    images: np.ndarray | None, labels: np.ndarray | None, path: str, shape: tuple[int, int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    if images is None or images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        got = "no such array" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"data.extra: {path}: image: got {got}; allowed: uint8 [N, {', '.join(map(str, shape))}]")
    if labels is None:
        raise ValueError(
            f"data.extra: {path} has no array label; allowed: one with a label an image, which "
            "python -m act_engine.pseudo_label writes"
        )
    labels = labels.reshape(-1) if labels.shape[1:] in ((), (1,)) else labels
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"data.extra: {path}: label: got {labels.dtype} {list(labels.shape)}; allowed: whole numbers, one an image"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"data.extra: {path}: label: got {labels.min()} to {labels.max()}; allowed: 0 to {num_classes - 1}"
        )
    return images, labels


def with_extra(
    part: Pictures | ImageFiles,
    paths: Sequence[str],
    *,
    shape: tuple[int, int, int] | None,
    workers: int,
    **classes: Any,
) -> tuple[Pictures | ImageFiles, dict[str, Any]]:
    """What a loader of `part` takes to show the images of `paths` too, and how many these are (`count`).

    Args:
        shape: (H, W, C) of pictures in memory; None: `part` are files, which those of `paths` then follow.
        classes: `num_classes` and the names `classes` of the data set.
    """
    if shape is not None:
        extra = open_extra(paths, shape=tuple(shape), workers=workers, **classes)
        return part, {"extra": extra, "count": len(extra)}
    own = len(part)
    for path in map(expanded, paths):
        if os.path.isfile(path):
            raise ValueError(f"data.extra: got the file {path}; allowed beside image files: folders of such")
        more = list_extra(path, workers=workers, **classes)
        if more.packed != part.packed:
            raise ValueError(f"data.extra: got {path}; allowed: files beside files, or shards beside shards")
        part = part.followed_by(more)
    return part, {"count": len(part) - own}
