"""What tells a data set from another, wherever it lies: classes in label order, counts, and a digest of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from act_engine.data.contract import Data

SPLITS = ("train", "test", "selection")


def identity_of(labels: np.ndarray, classes: Sequence[str] | None, content: Iterable[Any]) -> dict[str, Any]:
    """The identity of a split, as JSON values: number of images, classes in label order, images of each, digest.

    `content`: whatever else tells its images apart, as bytes or arrays.
    """
    labels = np.ascontiguousarray(labels, np.int64)
    digest = hashlib.blake2b(labels, digest_size=16)
    for part in content:
        digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part)
    return {
        "images": len(labels),
        "classes": None if classes is None else list(classes),
        "counts": np.bincount(labels, minlength=len(classes or ())).tolist(),
        "digest": digest.hexdigest(),
    }


def identity(loader: Any) -> dict[str, Any] | None:
    """The identity of a loader's images; None for a user's own batches, which have none."""
    return loader.identity() if hasattr(loader, "identity") else None


def describe_data(data: Data) -> dict[str, Any]:
    """The content of data.json: the identity of each split, and the names of the files of it that were left aside."""
    described = {}
    for split in SPLITS:
        found = identity(getattr(data, split))
        if found is not None:
            unused = {kind: list(names) for kind, names in data.unused.get(split, {}).items()}
            described[split] = {**found, "unused": unused}
    return described


def require_same(saved: Mapping[str, Any] | None, here: Mapping[str, Any] | None, split: str, where: str) -> None:
    """Refuse images that are not those whose identity was `saved` in `where`; None on either side is not judged.

    Raises:
        ValueError: a class, a count or the content is another; one line.
    """
    if saved is None or here is None:
        return
    difference = _difference(saved, here)
    if difference:
        raise ValueError(f"data.path: the {split} images are not those of {where}: {difference}")


def _difference(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    theirs, ours = saved["classes"] or (), here["classes"] or ()
    if len(theirs) != len(ours) and theirs and ours:
        return f"{len(theirs)} classes there, {len(ours)} here"
    for number, (their, our) in enumerate(zip(theirs, ours, strict=False)):
        if their != our:
            return f"class {number} is {their!r} there, {our!r} here"
    if saved["images"] != here["images"]:
        return f"{saved['images']:,} images there, {here['images']:,} here"
    if saved["counts"] != here["counts"]:
        number = next(n for n, (a, b) in enumerate(zip(saved["counts"], here["counts"], strict=False)) if a != b)
        name = ours[number] if number < len(ours) else number
        return f"{saved['counts'][number]:,} images of class {name!r} there, {here['counts'][number]:,} here"
    if saved["digest"] != here["digest"]:
        return "as many images of each class, but other ones"
    return None
