"""Lists of images with their labels: CSV and text files, as ImageNet's validation images and many others come."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from act_engine.data.files import IMAGE_SUFFIXES
from act_engine.data.foreign import BadFile, parsing
from act_engine.data.listing import Found, Listing, gather
from act_engine.data.places import is_service, same_name, scan

ENDINGS = (".csv", ".tsv", ".txt")
NAMES = ("{}", "{}_labels", "{}_annotations", "{}_map", "LOC_{}_solution", "labels")  # {}: the split
MOST_BYTES = 2**30


def find_list(split: str, folders: Sequence[Path]) -> Path | None:
    """The file that lists the images of a split in one of `folders`; ValueError where there are two."""
    names = {pattern.format(split).lower() + ending for pattern in NAMES for ending in ENDINGS}
    found = [
        Path(entry.path)
        for folder in folders
        if folder.is_dir()
        for entry in scan(folder)
        if entry.name.lower() in names and entry.is_file()
    ]
    if len(found) > 1:
        raise ValueError(f"data.path: both {found[0]} and {found[1]} list the images of {split}; keep one of the two")
    return found[0] if found else None


def read_list(file: Path) -> list[tuple[str | None, str]]:
    """Rows of (image, label) as they are written; image None where a line is a label alone.

    Columns are separated by commas (.csv), tabs or spaces; the image is the first, and the label the first word of the
    second.

    Raises:
        ValueError: it is no such list; one line.
    """
    with (
        parsing(file, "is not a list of images and labels"),
        open(file, encoding="utf-8-sig") as opened,
    ):
        if file.stat().st_size > MOST_BYTES:
            raise BadFile(f"data.path: {file} has more than {MOST_BYTES:,} bytes; a list of labels is shorter")
        lines = [line for line in opened.read().splitlines() if line.strip()]
        if not lines:
            raise ValueError("it is empty")
        rows = [_columns(row) for row in _split(lines, file)]
    if not all(row[0] is None for row in rows) and any(row[0] is None for row in rows):
        number = next(number for number, row in enumerate(rows, 1) if row[0] is None)
        raise BadFile(f"data.path: {file}: row {number} has one column; each needs an image and a label")
    return rows


def _split(lines: Sequence[str], file: Path) -> Iterator[list[str]]:
    if file.suffix.lower() == ".csv":
        return csv.reader(lines, strict=True)
    if "\t" in lines[0]:
        return (line.split("\t") for line in lines)
    if "," in lines[0]:
        return csv.reader(lines, strict=True)
    return (line.rsplit(None, 1) for line in lines)


def _columns(row: Sequence[str]) -> tuple[str | None, str]:
    cells = [cell.strip() for cell in row]
    if len(cells) == 1:
        return None, cells[0]
    return cells[0], (cells[1].split() or [""])[0]


def list_labelled(file: Path, folder: Path | None, root: Path, classes: tuple[str, ...] | None) -> Listing:
    """The images of a list: names are those of files in `folder` (or its images/), or paths from `root` or the list.

    `classes`: the training classes, which labels name, or number from 0 on; None for the training list itself, whose
    names in sorted order become the classes, unless they are numbers.

    Raises:
        ValueError: a row names no image or no class, or an image twice.
    """
    rows = read_list(file)
    flat = _flat(folder)
    if rows[0][0] is None:
        rows = _by_order(rows, flat, file)
    else:
        header = _resolve(rows[0][0], flat, file, root) is None
        first = _resolve(rows[1][0], flat, file, root) if len(rows) > 1 else None
        rows = rows[1:] if header and first is not None else rows
    numbers, names = _labels([label for _, label in rows], classes, file)
    found: dict[str, Found] = defaultdict(lambda: Found(""))
    seen: set[str] = set()
    for (image, _), label in zip(rows, numbers, strict=True):
        path = _resolve(image, flat, file, root)
        if path is None:
            raise ValueError(f"data.path: {file} lists {image!r}, which is no file in {folder or root}")
        if path in seen:
            raise ValueError(f"data.path: {file} lists {image!r} twice")
        seen.add(path)
        place, name = os.path.split(path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            found[place].add(descriptor, name, path, label)
        finally:
            os.close(descriptor)
    for place, part in found.items():
        part.container = place
    left = sorted(name for name in flat.values() if name not in seen and flat)
    unused = {"images without a label": left} if left else {}
    parts = list(found.values())
    files = gather("/", parts, packed=False)
    return Listing(files, names, unused, tuple(line for part in parts for line in part.bad))


def _flat(folder: Path | None) -> dict[str, str]:
    """Images that lie in `folder`, or in its images/, by name and by name without suffix."""
    if folder is None:
        return {}
    found: dict[str, str] = {}
    for place in (folder, folder / "images"):
        if place.is_dir():
            for entry in scan(place):
                if entry.name.lower().endswith(IMAGE_SUFFIXES) and not is_service(entry.name) and entry.is_file():
                    found[entry.name] = os.path.abspath(entry.path)
    return found


def _resolve(image: str, flat: dict[str, str], file: Path, root: Path) -> str | None:
    if image in flat:
        return flat[image]
    suffixes = ("", ".JPEG", ".jpg", ".jpeg", ".png")  # ImageNet's lists leave it out
    for suffix in suffixes[1:]:
        if image + suffix in flat:
            return flat[image + suffix]
    for place in (root, file.parent):
        for suffix in suffixes:
            path = os.path.abspath(os.path.join(place, image + suffix))
            if os.path.isfile(path):
                return path
    return None


def _by_order(rows: Sequence[tuple[str | None, str]], flat: dict[str, str], file: Path) -> list[tuple[str, str]]:
    if all(label.isdigit() for _, label in rows):
        raise ValueError(
            f"data.path: {file} holds numbers without names, which number the classes in an order of their own (the "
            "ILSVRC development kit's); give a list of image and class name"
        )
    if len(rows) != len(flat):
        raise ValueError(f"data.path: {file} has {len(rows)} labels for {len(flat)} images; allowed: one for each")
    return [(name, label) for name, (_, label) in zip(sorted(flat), rows, strict=True)]


def _labels(
    texts: Sequence[str], classes: tuple[str, ...] | None, file: Path
) -> tuple[list[int], tuple[str, ...] | None]:
    """The labels as numbers, and the classes' names, where there are any."""
    number_of = {same_name(name): number for number, name in enumerate(classes or sorted(set(texts)))}
    numeric = all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts)
    if numeric and (classes is None or not number_of.keys() >= set(texts)):
        numbers = [int(text) for text in texts]
        if classes is not None and max(numbers) >= len(classes):
            raise ValueError(f"data.path: {file} has label {max(numbers)}; train has {len(classes)} classes, from 0 on")
        return numbers, classes
    unknown = [text for text in texts if same_name(text) not in number_of]
    if unknown:
        raise ValueError(f"data.path: {file} has label {unknown[0]!r}, which is no class of train")
    return [number_of[same_name(text)] for text in texts], classes or tuple(sorted(set(texts)))
