"""Encoded images in folders or archives: where each lies, its label and its size, in arrays that ranks can share."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from act_engine.data.headers import (
    HEAD_BYTES,
    JPEG_START,
    PNG_START,
    TAIL_BYTES,
    BadImage,
    as_ppm,
    image_size,
    open_other,
)

# torchvision's, and what else JPEGs are called
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Texts:
    """N texts in one array of bytes, `[bytes]` uint8, each between its `begins` and `ends`, `[N]` int64."""

    def __init__(self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.begins, self.ends = data, begins, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Lay out `texts`; bytes that are no UTF-8 come as surrogates and come back so."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        return cls.laid_out(np.frombuffer(b"".join(encoded), np.uint8), np.array([*map(len, encoded)], np.uint16))

    @classmethod
    def laid_out(cls, data: np.ndarray, lengths: np.ndarray) -> Texts:
        """Texts that lie in `data` one after the other."""
        ends = np.cumsum(lengths, dtype=np.int64)
        return cls(data, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: int) -> str:
        return self.data[self.begins[index] : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def keep(self, kept: np.ndarray) -> Texts:
        """The texts whose indices are `kept`; the bytes stay where they are."""
        return Texts(self.data, self.begins[kept], self.ends[kept])


@dataclass(frozen=True)
class ImageFiles:
    """N encoded images: image i is `lengths[i]` bytes from `offsets[i]` of the file `path(i)`."""

    root: str  # the folder that all lie in
    containers: tuple[str, ...]  # folders of image files, or archives, relative to root
    packed: bool  # whether they are archives
    holders: np.ndarray  # [N] int32, each image's container
    texts: Texts  # N: file name in its folder, or key in its archive
    offsets: np.ndarray  # [N] int64, bytes
    lengths: np.ndarray  # [N] int64, bytes
    sizes: np.ndarray  # [N, 2] int32, height and width in pixels
    labels: np.ndarray  # [N] int64

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """What a message calls each image."""
        return [self.name(index) for index in range(len(self))]

    def path(self, index: int) -> str:
        """The file that holds image `index`."""
        parts = (self.containers[self.holders[index]], *([] if self.packed else [self.texts[index]]))
        return os.path.join(self.root, *parts)

    def name(self, index: int) -> str:
        """What a message calls image `index`."""
        return f"{self.path(index)}: {self.texts[index]}" if self.packed else self.path(index)

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`, as a JPEG, a PNG, or of any other kind as a PPM.

        Raises:
            OSError: the file cannot be read.
            BadImage: it is another file by now, or PIL cannot decode what has to be a PPM.
        """
        content = read_part(self.path(index), int(self.offsets[index]), int(self.lengths[index]))
        if len(content) != self.lengths[index]:
            raise BadImage(f"{len(content):,} bytes are left of {self.lengths[index]:,}")
        if content.startswith((JPEG_START, PNG_START)):
            return content
        return ppm_of(content)

    def keep(self, kept: np.ndarray) -> ImageFiles:
        """The images whose indices are `kept`."""
        columns = ("holders", "offsets", "lengths", "sizes", "labels")
        return replace(self, texts=self.texts.keep(kept), **{name: getattr(self, name)[kept] for name in columns})

    def relabelled(self, labels: np.ndarray) -> ImageFiles:
        """The same images with other labels `[N]`."""
        return replace(self, labels=labels)


def inspect(descriptor: int, offset: int = 0, length: int | None = None) -> tuple[int, tuple[int, int]]:
    """Return the bytes and the (height, width) of an image in an open file; BadImage says what is wrong with it.

    Only its head and tail are read: enough to tell another kind of file, a damaged header and a truncated image.
    """
    head = os.pread(descriptor, HEAD_BYTES if length is None else min(HEAD_BYTES, length), offset)
    if length is None:  # a file by itself: a small one is known after one call
        length = len(head) if len(head) < HEAD_BYTES else os.lseek(descriptor, 0, os.SEEK_END)
    small = length <= len(head)
    tail = head[-TAIL_BYTES:] if small else os.pread(descriptor, TAIL_BYTES, offset + length - TAIL_BYTES)
    whole = (lambda: head) if small else (lambda: os.pread(descriptor, length, offset))
    return length, image_size(head, tail, length, whole)


def read_part(path: str, offset: int, count: int) -> bytes:
    """Up to `count` bytes of a file from `offset`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, count, offset)
    finally:
        os.close(descriptor)


def ppm_of(content: bytes) -> bytes:
    """An image that DALI does not decode, or not as PIL does, decoded by PIL; BadImage where it cannot be."""
    from PIL import Image

    try:
        native = content.startswith((JPEG_START, PNG_START))
        return as_ppm(Image.open(io.BytesIO(content)) if native else open_other(content))
    except BadImage:
        raise
    except Exception as problem:
        raise BadImage(f"it cannot be decoded ({' '.join(str(problem).split())})") from None
