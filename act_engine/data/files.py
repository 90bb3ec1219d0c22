"""Encoded images in folders or archives: where each lies, its label and its size, in arrays that ranks can share."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

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
    """N texts in one array of bytes, `[bytes]` uint8, each between its `begins` and `ends`, `[N]`, rising."""

    def __init__(self, data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.begins, self.ends = data, begins, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Lay out `texts`; bytes that are no UTF-8 come as surrogates and come back so."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        edges = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls.between(np.frombuffer(b"".join(encoded), np.uint8), edges)

    @classmethod
    def between(cls, data: np.ndarray, edges: np.ndarray) -> Texts:
        """Texts that lie in `data` one after the other, between `edges` `[N + 1]`."""
        return cls(data, edges[:-1], edges[1:])

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: int) -> str:
        return self.data[self.begins[index] : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def joined(self) -> np.ndarray:
        """The bytes of all texts one after the other, `[bytes]` uint8; those of texts that `keep` left out are not."""
        edges = np.zeros(len(self.data) + 1, np.int8)
        edges[self.begins] += 1
        edges[self.ends] -= 1
        return self.data[np.cumsum(edges[:-1], dtype=np.int8).view(bool)]

    def keep(self, kept: np.ndarray) -> Texts:
        """The texts whose indices are `kept`, rising; the bytes stay where they are."""
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
        length = int(self.lengths[index])
        content = read_part(self.path(index), int(self.offsets[index]), length + (not self.packed))
        if len(content) != length:
            problem = "has fewer" if len(content) < length else "has more"
            raise BadImage(
                f"it {problem} than the {length:,} bytes of when it was listed (--data.index renew lists anew)"
            )
        if content.startswith((JPEG_START, PNG_START)):
            return content
        return ppm_of(content)

    def content(self) -> list[Any]:
        """What tells these images from others, wherever they lie: names, bytes and sizes in pixels."""
        inside = [container for container in self.containers if not os.path.isabs(container)]  # wherever the root lies
        names = "\0".join(inside).encode("utf-8", "surrogateescape")
        lengths = self.texts.ends.astype(np.int64) - self.texts.begins.astype(np.int64)
        pixels, held = self.sizes.astype(np.int64), self.holders.astype(np.int64)
        return [names, held, self.texts.joined(), lengths, self.lengths.astype(np.int64), pixels]

    def keep(self, kept: np.ndarray) -> ImageFiles:
        """The images whose indices are `kept`."""
        columns = ("holders", "offsets", "lengths", "sizes", "labels")
        return replace(self, texts=self.texts.keep(kept), **{name: getattr(self, name)[kept] for name in columns})

    def followed_by(self, other: ImageFiles) -> ImageFiles:
        """These images and then those of `other`, which may lie elsewhere; both are files, or both in archives."""
        assert self.packed == other.packed
        there = tuple(os.path.abspath(os.path.join(other.root, container)) for container in other.containers)
        columns = ("offsets", "lengths", "sizes", "labels")
        return replace(
            self,
            containers=(*self.containers, *there),  # an absolute one is not taken for one under root
            holders=np.concatenate([self.holders, other.holders + len(self.containers)]),
            texts=Texts.of([*map(str, self.texts), *map(str, other.texts)]),
            **{name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in columns},
        )

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
