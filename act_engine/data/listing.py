"""Image files as they are being listed, and as a data set when they have been."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from act_engine.data.files import ImageFiles, Texts, inspect
from act_engine.data.headers import BadImage
from act_engine.data.labels import count_classes
from act_engine.data.splits import Splits


@dataclass(frozen=True)
class Listing:
    """What was found at a place: its usable images, and everything that was left aside."""

    files: ImageFiles
    classes: tuple[str, ...] | None = None  # names in label order; None where labels are numbers
    unused: dict[str, list[str]] = field(default_factory=dict)  # by kind, such as ".txt"
    bad: tuple[str, ...] = ()  # a line about each image that cannot be used
    stamps: dict[str, list[int]] = field(default_factory=dict)  # what the listing was made from: mtime in ns, bytes

    def note(self, split: str) -> str:
        """One line of what the split is, for the user."""
        classes = len(self.classes) if self.classes is not None else len(np.unique(self.files.labels))
        left = [f"{len(names):,} {kind}" for kind, names in self.unused.items()]
        left += [f"{len(self.bad):,} bad"] if self.bad else []
        return f"{split}: {len(self.files):,} images in {classes:,} classes" + (
            f"; not used: {', '.join(left)}" if left else ""
        )


@dataclass
class Found:
    """Images under one container, while they are being listed."""

    container: str
    stamp: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def add(
        self, descriptor: int, name: str, shown: str, label: int, offset: int = 0, length: int | None = None
    ) -> None:
        """Inspect an image in an open file; a bad one gets a line instead. `length` None: the file's own."""
        try:
            length, size = inspect(descriptor, offset, length)
        except (BadImage, OSError) as problem:
            self.refuse(shown, problem)
            return
        self.names.append(name)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.sizes.append(size)
        self.labels.append(label)

    def refuse(self, shown: str, problem: Exception) -> None:
        """Note an image that cannot be used."""
        self.bad.append(f"{shown}: {getattr(problem, 'strerror', None) or problem}")


def gather(root: str | Path, found: Sequence[Found], *, packed: bool) -> ImageFiles:
    """The images of all containers as one list."""
    counts = [len(part.names) for part in found]

    def column(name: str, dtype: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.array([value for part in found for value in getattr(part, name)], dtype).reshape(-1, *shape)

    return ImageFiles(
        root=str(root),
        containers=tuple(part.container for part in found),
        packed=packed,
        holders=np.repeat(np.arange(len(found), dtype=np.int32), counts),
        texts=Texts.of(name for part in found for name in part.names),
        offsets=column("offsets", np.int64),
        lengths=column("lengths", np.int64),
        sizes=column("sizes", np.int32, (2,)),
        labels=column("labels", np.int64),
    )


def stamp(path: str | Path) -> list[int]:
    """What tells that a folder, or a file, has changed: its time in ns, and a file's bytes."""
    status = os.stat(path)
    return [status.st_mtime_ns, 0 if os.path.isdir(path) else status.st_size]


def as_splits(
    listings: Mapping[str, Listing],
    *,
    bad_images: str,
    num_classes: int | None,
    notes: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
) -> Splits:
    """Return the listed splits ("train", "test", "selection") as a data set.

    `bad_images`: "error" raises ValueError naming the first image that cannot be used, "skip" leaves them out. `names`:
    what the splits are called where they lie.
    """
    if bad_images not in ("error", "skip"):
        raise ValueError(f"data.bad_images: got {bad_images!r}; allowed: error, skip")
    bad = [line for listing in listings.values() for line in listing.bad]
    if bad and bad_images == "error":
        raise ValueError(
            f"data.path: {bad[0]}; {len(bad)} bad image(s) in all: repair or remove them, or leave them out with "
            "--data.bad_images skip"
        )
    for listing in listings.values():
        lost = set(range(len(listing.classes or ()))) - set(np.unique(listing.files.labels).tolist())
        if lost and listing.bad:
            raise ValueError(
                f"data.path: every image of the class {listing.classes[min(lost)]!r} is bad; {listing.bad[0]}"
            )
        if not len(listing.files):
            raise ValueError(f"data.path: every image is bad; {bad[0]}" if bad else "data.path: there are no images")
    said = [listing.note((names or {}).get(split, split)) for split, listing in listings.items()] + list(notes)
    first = next(iter(listings.values()))
    files = {split: listing.files for split, listing in listings.items()}
    labels = {split: part.labels for split, part in files.items()}
    if first.classes is None:
        count = count_classes(labels, num_classes, lambda split, index: files[split].name(index), said)
    else:
        count = len(first.classes)
    return Splits(
        **{"train": None, "test": None, **files},
        num_classes=count,
        classes=first.classes,
        notes=tuple(said),
        bad=tuple(bad),
        unused={
            split: listing.unused | ({"bad": list(listing.bad)} if listing.bad else {})
            for split, listing in listings.items()
        },
    )
