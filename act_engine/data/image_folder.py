"""Image files in class folders, or in lists with labels: what is there, and nothing left aside without a word."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from act_engine.data.files import IMAGE_SUFFIXES
from act_engine.data.index import indexed
from act_engine.data.label_lists import find_list, list_labelled
from act_engine.data.listing import Found, Listing, as_splits, gather, stamp
from act_engine.data.places import (
    HELD_OUT,
    TRAIN,
    choose,
    find_splits,
    is_service,
    require_folder,
    require_no_twins,
    same_name,
    scan,
)
from act_engine.data.registry import Facts, Source
from act_engine.data.splits import Splits

KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")  # where ImageNet lies in what Kaggle hands out


def image_folder(
    path: str | None,
    workers: int,
    bad_images: str,
    num_classes: int | None = None,
    holdout: float | None = None,
    index: str = "auto",
    train: bool = True,
    class_names: Sequence[str] | None = None,
) -> Splits:
    """List the images of `path`/train and of its held-out splits: val, valid, validation, dev or test.

    A split is a folder of class folders, whose images may lie in subfolders, as torchvision reads it; or a list
    SPLIT.csv or SPLIT.txt of image and class, for a flat folder SPLIT or with paths from `path`. With `holdout` there
    is no held-out split: `path` or `path`/train holds the class folders. Without `train` only the held-out images are
    listed; then `class_names` are the classes that labels are given by, of which a test set, which `path` itself may
    be, can lack some. `index` as in `indexed`.

    Raises:
        ValueError, FileNotFoundError: nothing usable is there, or what is meant is not clear; one line.
    """
    root = require_folder(path, "image_folder")
    outer = root
    if (root / KAGGLE).is_dir() and not (root / TRAIN).is_dir():
        root = root / KAGGLE
    elif root.parts[-3:] == KAGGLE.parts:
        outer = root.parents[2]
    folders = {name: root / entry for name, entry in _split_folders(root).items()}
    if class_names is not None and not train:
        tested, _, notes = choose(folders, root)
        place = root if tested is None else folders[tested]
        listing = relabelled(indexed_classes(place, workers, index), tuple(class_names), place, whole=False)
        return as_splits({"test": listing}, bad_images=bad_images, num_classes=num_classes, notes=notes)
    lists = _find_lists(folders, dict.fromkeys((root, outer)))
    if TRAIN not in {*folders, *lists}:
        if holdout is None or folders or lists or not _class_folders(root):
            raise FileNotFoundError(
                f"data.path: {path} has no folder train/; it must hold train/ and val/, or the class folders "
                "themselves with --data.holdout 0.1, to hold out a tenth of the images"
            )
        folders = {TRAIN: root}
    labelled = [name for name in HELD_OUT if name in lists or (name in folders and _class_folders(folders[name]))]
    unlabelled = [name for name in HELD_OUT if name in folders and name not in labelled]
    if unlabelled and not labelled:
        name = unlabelled[0]
        raise ValueError(
            f"data.path: {folders[name]} holds no class folders; put its images into {name}/CLASS/, or a list of image "
            f"and class beside it, {name}.csv"
        )
    tested, selecting, notes = choose(labelled, root)
    notes += [f"{name}: not used, for its images have no labels" for name in unlabelled]
    if tested is None and holdout is None:
        raise FileNotFoundError(
            f"data.path: {path} has no folder val/; it must hold train/ and val/, or give --data.holdout 0.1 to hold "
            "out a tenth of the images"
        )
    names = {"train": TRAIN, "test": tested, "selection": selecting}
    listings: dict[str, Listing] = {}
    classes = None
    if not train and TRAIN not in lists:
        del names["train"]
        classes = tuple(sorted(_class_folders(folders[TRAIN])))
    for split, name in names.items():
        if name is not None and name in lists:
            listings[split] = list_labelled(lists[name], folders.get(name), root, classes)
        elif name is not None:
            listings[split] = relabelled(indexed_classes(folders[name], workers, index), classes, folders[name])
        classes = listings["train"].classes if "train" in listings else classes
    return as_splits(listings, bad_images=bad_images, num_classes=num_classes, notes=notes, names=names)


def _split_folders(root: Path) -> dict[str, str]:
    return find_splits([entry.name for entry in scan(root) if entry.is_dir()], root)


def _class_folders(folder: Path) -> set[str]:
    return {entry.name for entry in scan(folder) if entry.is_dir() and not is_service(entry.name)}


def _find_lists(folders: dict[str, Path], places: Iterable[Path]) -> dict[str, Path]:
    """The lists of the splits whose folders, if they have one, hold no class folders of training's."""
    trained = _class_folders(folders[TRAIN]) if TRAIN in folders else set()
    found = {}
    for name in (TRAIN, *HELD_OUT):
        inside = [folders[name]] if name in folders else []
        if not (inside and trained & _class_folders(inside[0])):
            file = find_list(name, [*inside, *places])
            if file is not None:
                found[name] = file
    return found


def indexed_classes(folder: Path, threads: int, index: str) -> Listing:
    """The images under `folder`/CLASS/ as `list_class_folders` finds them, out of their index where it holds."""
    return indexed(folder, "class folders", lambda: list_class_folders(folder, threads), index=index)


def list_class_folders(folder: Path, threads: int = 2) -> Listing:
    """List the images under `folder`/CLASS/, at any depth, in torchvision's order and with its labels.

    Raises:
        ValueError: there are no class folders, one holds no image, or two differ by case alone.
    """
    own = stamp(folder)
    unused: dict[str, list[str]] = defaultdict(list)
    classes = []
    for entry in scan(folder):
        if entry.is_dir() and not is_service(entry.name):
            classes.append(entry.name)
        else:
            unused[kind_of(entry)].append(entry.name)
    if not classes:
        raise ValueError(f"data.path: {folder} holds no class folders; put the images into {folder}/CLASS/")
    for name in classes:
        if not name.isprintable() or name != name.encode("utf-8", "replace").decode():
            raise ValueError(f"data.path: the class folder {name!r} in {folder} has a name that is no UTF-8; rename it")
    require_no_twins(classes, folder)

    def walk(label: int) -> tuple[list[Found], dict[str, list[str]]]:
        parts, left = [], defaultdict(list)
        _walk(folder, classes[label], label, parts, left)
        return sorted(parts, key=lambda part: part.container), left

    with ThreadPoolExecutor(threads, thread_name_prefix="list-images") as pool:
        walked = list(pool.map(walk, range(len(classes))))
    for name, (parts, left) in zip(classes, walked, strict=True):
        for kind, names in left.items():
            unused[kind] += names
        if not any(part.names or part.bad for part in parts):
            raise ValueError(
                f"data.path: the class folder {folder / name} holds no image ({', '.join(IMAGE_SUFFIXES)}); fill or "
                "remove it"
            )
    parts = [part for parts, _ in walked for part in parts]
    return Listing(
        files=gather(folder, parts, packed=False),
        classes=tuple(classes),
        unused={kind: unused[kind] for kind in sorted(unused)},
        bad=tuple(line for part in parts for line in part.bad),
        stamps={".": own} | {part.container: part.stamp for part in parts},
    )


def _walk(
    root: Path,
    folder: str,
    label: int,
    parts: list[Found],
    unused: dict[str, list[str]],
    above: frozenset[tuple[int, int]] = frozenset(),
) -> None:
    """Collect the images under `folder`, links followed, by folder, and the names of what is no image, by kind."""
    status = os.stat(root / folder)
    key = (status.st_dev, status.st_ino)
    if key in above:
        raise ValueError(f"data.path: {root / folder} links to a folder that it lies in; remove the link")
    part = Found(folder, stamp=[status.st_mtime_ns, 0])
    parts.append(part)
    for entry in scan(root / folder):
        if is_service(entry.name):
            unused[kind_of(entry)].append(f"{folder}/{entry.name}")
        elif entry.is_dir():
            _walk(root, f"{folder}/{entry.name}", label, parts, unused, above | {key})
        elif entry.name.lower().endswith(IMAGE_SUFFIXES) and _openable(entry):
            _add(part, entry, label)
        else:
            unused[kind_of(entry)].append(f"{folder}/{entry.name}")


def _openable(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file, or a link to nothing, which is reported as a bad image."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _add(part: Found, entry: os.DirEntry[str], label: int) -> None:
    try:
        descriptor = os.open(entry.path, os.O_RDONLY)
    except PermissionError:
        raise ValueError(f"data.path: no permission to read {entry.path}; change its mode or owner") from None
    except OSError as error:
        part.bad.append(f"{entry.path}: {error.strerror}")
        return
    try:
        part.add(descriptor, entry.name, entry.path, label)
    finally:
        os.close(descriptor)


def kind_of(entry: os.DirEntry[str]) -> str:
    """What an entry that is no image is called in the count of them."""
    if is_service(entry.name):
        return "hidden" if entry.name.startswith(".") else "system folder"
    if not entry.is_file():
        return "no regular file"
    return os.path.splitext(entry.name)[1].lower() or "without suffix"


def relabelled(
    listing: Listing, classes: tuple[str, ...] | None, folder: Path | None, *, whole: bool = True
) -> Listing:
    """A held-out listing with the labels of the training `classes`, which must be its own; ValueError otherwise.

    Without `whole` it may lack some of them, and its folders may have the labels' numbers for names.
    """
    if classes is None:
        return listing
    known = classes
    if not whole and set(listing.classes) <= {str(number) for number in range(len(classes))}:
        known = tuple(map(str, range(len(classes))))  # folders called by the label's number, as ImageNet-V2's are
    ours, theirs = ({same_name(name): name for name in names} for names in (listing.classes, known))
    theirs_lack = "has, and train/ lacks," if whole else "has, and the model's classes lack,"
    needed = "; both splits need the same classes" if whole else ""
    for lacking, present, problem in ((theirs, ours, theirs_lack), *(((ours, theirs, "lacks"),) if whole else ())):
        odd = sorted(present.keys() - lacking.keys())
        if odd:
            raise ValueError(f"data.path: {folder} {problem} the class folder {odd[0]!r} ({len(odd)} in all){needed}")
    number_of = {same_name(name): number for number, name in enumerate(known)}
    numbers = np.array([number_of[same_name(name)] for name in listing.classes], np.int64)
    files = listing.files
    if not np.array_equal(numbers, np.arange(len(numbers))):
        files = files.relabelled(numbers[files.labels])
    return replace(listing, files=files, classes=classes)


SOURCES = (
    Source(
        "image_folder",
        image_folder,
        Facts(images=1_281_167, num_classes=1000, shape=None),  # ImageNet-1k
        augmentations=("resized_crop_flip", "randaugment", "none"),
        streamed=True,
    ),
)
