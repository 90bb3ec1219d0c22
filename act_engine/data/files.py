"""Encoded images in class folders or tar shards: where each lies, its label and size, and whether it is whole."""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
HELD_OUT = ("val", "test", "validation")
HEAD_BYTES, TAIL_BYTES = 4096, 16
JPEG_END, PNG_START, PNG_END = b"\xff\xd9", b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class ImageFiles:
    """N encoded images: image i is `lengths[i]` bytes from `offsets[i]` of `paths[files[i]]`."""

    paths: list[str]
    files: np.ndarray  # [N] int64
    offsets: np.ndarray  # [N] int64, bytes
    lengths: np.ndarray  # [N] int64, bytes
    names: list[str]  # N, what an error message calls the image
    labels: np.ndarray  # [N] int64
    sizes: np.ndarray  # [N, 2] int64, height and width; filled in by `checked`
    classes: list[str] | None = None  # folder names in label order; None for tar shards

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> np.ndarray:
        """Return the encoded bytes of image `index`, `[length]` uint8."""
        return np.frombuffer(self.read_part(index, 0, int(self.lengths[index])), np.uint8)

    def read_part(self, index: int, start: int, count: int) -> bytes:
        """Return up to `count` bytes of image `index` from `start`."""
        descriptor = os.open(self.paths[self.files[index]], os.O_RDONLY)
        try:
            return os.pread(descriptor, count, int(self.offsets[index]) + start)
        finally:
            os.close(descriptor)

    def keep(self, kept: np.ndarray) -> ImageFiles:
        """Return the images whose indices are `kept`."""
        arrays = {name: getattr(self, name)[kept] for name in ("files", "offsets", "lengths", "labels", "sizes")}
        return replace(self, names=[self.names[index] for index in kept], **arrays)


class BadImage(Exception):
    """Why an image cannot be used."""


def split_folders(path: str | None, name: str) -> tuple[Path, Path]:
    """Return the train folder and the held-out folder (val, test or validation) under `path`."""
    if path is None:
        raise ValueError(f"data.path: not given; {name} needs the folder that holds train/ and val/")
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"data.path: there is no folder {path}; give the one that holds train/ and val/")
    held_out = next((root / split for split in HELD_OUT if (root / split).is_dir()), root / HELD_OUT[0])
    for folder in (root / "train", held_out):
        if not folder.is_dir():
            raise FileNotFoundError(f"data.path: {path} has no folder {folder.name}/; it must hold train/ and val/")
    return root / "train", held_out


def class_folders(folder: Path, classes: list[str] | None = None) -> ImageFiles:
    """List the JPEG and PNG files of `folder/CLASS/`, labelled by the classes' sorted order.

    `classes`, the training classes, fixes the labels of a held-out folder, which must have the same ones. ValueError
    for an empty, missing or additional class folder.
    """
    found = sorted(entry.name for entry in _scan(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"data.path: {folder} holds no class folders; put the images into {folder}/CLASS/")
    for lacking, present, problem in ((found, classes, "lacks"), (classes, found, "has, and train/ lacks,")):
        odd = sorted(set(present or ()) - set(lacking)) if classes is not None else []
        if odd:
            raise ValueError(
                f"data.path: {folder} {problem} the class folder {odd[0]!r} ({len(odd)} in all); "
                "both splits need the same classes"
            )
    paths: list[str] = []
    lengths: list[int] = []
    labels: list[int] = []
    for label, class_name in enumerate(found):
        images = [entry for entry in _scan(folder / class_name) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
        images = sorted((entry for entry in images if not entry.name.startswith(".")), key=lambda entry: entry.name)
        if not images:
            raise ValueError(
                f"data.path: the class folder {folder / class_name} holds no image ({', '.join(IMAGE_SUFFIXES)}); "
                "fill or remove it"
            )
        paths += [entry.path for entry in images]
        lengths += [entry.stat().st_size for entry in images]
        labels += [label] * len(images)
    count = len(paths)
    return ImageFiles(
        paths=paths,
        files=np.arange(count),
        offsets=np.zeros(count, np.int64),
        lengths=np.array(lengths, np.int64),
        names=paths,
        labels=np.array(labels, np.int64),
        sizes=np.zeros((count, 2), np.int64),
        classes=found,
    )


def tar_shards(folder: Path) -> ImageFiles:
    """List the samples of the WebDataset shards `folder/*.tar`: `KEY.jpg` (jpeg, png) with its label in `KEY.cls`.

    ValueError names the shard and the key where a shard is damaged or compressed, or an image or label is missing.
    """
    shards = sorted(str(entry.path) for entry in _scan(folder) if entry.name.endswith(".tar"))
    if not shards:
        raise ValueError(f"data.path: {folder} holds no .tar shards")
    rows: list[tuple[int, int, int, int]] = []  # shard, offset, length, label
    names: list[str] = []
    for number, shard in enumerate(shards):
        for key, parts in _tar_samples(shard).items():
            missing = [part for part in ("image", "label") if part not in parts]
            if missing:
                raise ValueError(f"data.path: {shard}: sample {key!r} has no {missing[0]} ({key}.jpg, {key}.cls)")
            rows.append((number, *parts["image"], parts["label"]))
            names.append(f"{shard}: {key}")
    if not rows:
        raise ValueError(f"data.path: the shards in {folder} hold no samples")
    files, offsets, lengths, labels = np.array(rows, np.int64).T
    return ImageFiles(shards, files, offsets, lengths, names, labels, np.zeros((len(rows), 2), np.int64))


def checked(files: ImageFiles, *, bad_images: str, threads: int) -> tuple[ImageFiles, list[str]]:
    """Return `files` with every image's size, without the bad ones, and a line about each bad one.

    Only the head and the tail of each image are read: enough to tell another kind of file, a damaged header and a
    truncated image. `bad_images`: "error" raises ValueError naming the first, "skip" leaves them out.
    """
    if bad_images not in ("error", "skip"):
        raise ValueError(f"data.bad_images: {bad_images!r} given; allowed: error, skip")

    def check(indices: np.ndarray) -> list[tuple[int, int] | str]:
        return [_inspect(files, int(index)) for index in indices]

    chunks = np.array_split(np.arange(len(files)), max(1, len(files) // 256))
    with ThreadPoolExecutor(threads) as pool:
        found = [outcome for chunk in pool.map(check, chunks) for outcome in chunk]
    bad = [outcome for outcome in found if isinstance(outcome, str)]
    if bad and bad_images == "error":
        raise ValueError(
            f"data.path: {bad[0]}; {len(bad)} bad image(s) in all: repair or remove them, or leave them out with "
            "--data.bad_images skip"
        )
    kept = np.array([index for index, outcome in enumerate(found) if not isinstance(outcome, str)], np.int64)
    if files.classes is not None:
        lost = sorted(set(range(len(files.classes))) - set(files.labels[kept].tolist()))
        if lost:
            raise ValueError(f"data.path: every image of the class {files.classes[lost[0]]!r} is bad; {bad[0]}")
    if not len(kept):
        raise ValueError(f"data.path: every image is bad; {bad[0]}")
    sizes = np.array([outcome for outcome in found if not isinstance(outcome, str)], np.int64)
    return replace(files.keep(kept), sizes=sizes), bad


def require_labels_below(files: ImageFiles, num_classes: int) -> None:
    """Raise ValueError naming the first image whose label is negative or at least `num_classes`."""
    wrong = np.flatnonzero((files.labels < 0) | (files.labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"model.num_classes: {num_classes} given, but {files.names[wrong[0]]} has label {files.labels[wrong[0]]} "
            f"({len(wrong)} such image(s)); labels must lie in [0, {num_classes})"
        )


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError:
        raise ValueError(f"data.path: no permission to read the folder {folder}; change its mode or owner") from None


def _tar_samples(shard: str) -> dict[str, dict[str, tuple[int, int] | int]]:
    samples: dict[str, dict[str, tuple[int, int] | int]] = {}
    try:
        with open(shard, "rb") as file:
            for name, offset, size in _tar_members(file):
                folder, _, file_name = name.rpartition("/")
                stem, _, suffix = file_name.partition(".")
                parts = samples.setdefault(f"{folder}/{stem}".lstrip("/"), {})
                if f".{suffix.lower()}" in IMAGE_SUFFIXES:
                    parts["image"] = (offset, size)
                elif suffix == "cls":
                    parts["label"] = _label(os.pread(file.fileno(), size, offset), f"{shard}: {name}")
    except PermissionError:
        raise ValueError(f"data.path: no permission to read {shard}; change its mode or owner") from None
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"data.path: {shard} is not a whole, uncompressed tar shard ({error})") from None
    return samples


def _tar_members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, bytes) of a tar's files.

    Plain headers, nearly all there are, are read here: the standard library takes minutes for a million. The whole
    shard is left to it where a header is of another kind (long names, damage).
    """
    plain = []
    position, end = 0, os.fstat(file.fileno()).st_size
    while position + 512 <= end:
        header = os.pread(file.fileno(), 512, position)
        if not header.strip(b"\0"):  # the end marker
            yield from plain
            return
        size = header[124:136].rstrip(b" \0")
        checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if header[156:157] not in (b"0", b"\0", b"5") or not size.isdigit() or header[257:262] != b"ustar":
            break
        if int(header[148:156].strip(b" \0") or b"0", 8) != checksum:
            break
        if header[156:157] != b"5":  # not a folder
            prefix = header[345:500] if header[257:263] == b"ustar\0" else b""  # GNU's variant keeps other things there
            name = b"/".join(part for part in (prefix.rstrip(b"\0"), header[:100].rstrip(b"\0")) if part)
            plain.append((name.decode("utf-8", "surrogateescape"), position + 512, int(size, 8)))
        position += 512 + -(-int(size, 8) // 512) * 512
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.isfile():
                yield member.name, member.offset_data, member.size


def _label(content: bytes, name: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise ValueError(f"data.path: {name} holds {content[:20]!r}; a label is one whole number") from None


def _inspect(files: ImageFiles, index: int) -> tuple[int, int] | str:
    """Return (height, width) of image `index`, or a line that names it and says what is wrong with it."""
    length = int(files.lengths[index])
    try:
        head = files.read_part(index, 0, HEAD_BYTES)
        tail = files.read_part(index, max(0, length - TAIL_BYTES), TAIL_BYTES)
        return image_size(head, tail, whole=lambda: files.read_part(index, 0, length))
    except PermissionError:
        raise ValueError(f"data.path: no permission to read {files.names[index]}; change its mode or owner") from None
    except BadImage as problem:
        return f"{files.names[index]}: {problem}"


def image_size(head: bytes, tail: bytes, whole: Callable[[], bytes]) -> tuple[int, int]:
    """Return (height, width) of a whole JPEG or PNG from its first and last bytes; BadImage says what is wrong.

    `whole` reads all of it, for the few whose header is longer than `head` or that have bytes after their end.
    """
    if head.startswith(b"\xff\xd8"):
        try:
            size, scan = _jpeg_header(head)
        except IndexError:
            head = whole()
            try:
                size, scan = _jpeg_header(head)
            except IndexError:
                raise BadImage("a JPEG that ends within its header") from None
        if not tail.endswith(JPEG_END) and JPEG_END not in whole()[scan:]:
            raise BadImage("a truncated JPEG (no end marker)")
    elif head.startswith(PNG_START):
        if len(head) < 24:
            raise BadImage("a PNG that ends within its header")
        width, height = struct.unpack(">II", head[16:24])
        size = height, width
        if not tail.endswith(PNG_END) and PNG_END not in whole():
            raise BadImage("a truncated PNG (no end chunk)")
    else:
        raise BadImage("empty" if not head else "neither a JPEG nor a PNG")
    if min(size) < 1:
        raise BadImage(f"its header says {size[0]}x{size[1]} pixels")
    return size


def _jpeg_header(data: bytes) -> tuple[tuple[int, int], int]:
    """Return ((height, width), offset of the first scan); IndexError where `data` ends before both."""
    position, size = 2, None
    while True:
        if data[position] != 0xFF:
            raise BadImage("a JPEG with a damaged header")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if marker == 0xDA:
            if size is None:
                raise BadImage("a JPEG with a damaged header")
            return size, position
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            size = data[position + 5] << 8 | data[position + 6], data[position + 7] << 8 | data[position + 8]
        position += 2 + length
