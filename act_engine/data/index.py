"""An index of image files, made once and shared: what a listing found, in a file that every process maps.

Layout: 8 bytes magic, CRC-32 of all that follows it (4 bytes, little-endian), length of the JSON header (4 bytes), the
header, and the arrays that it names, each at a multiple of 64 bytes. Nothing in it is executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import mmap
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from act_engine.data.files import ImageFiles, Texts
from act_engine.data.foreign import one_line
from act_engine.data.listing import Listing, stamp

MAGIC, ALIGNED = b"ACTINDX1", 64
DTYPES = {
    "text": "u1",
    "edges": "<u4",
    "holders": "<i4",
    "offsets": "<i8",
    "lengths": "<u4",
    "sizes": "<i4",
    "labels": "<i4",
}

logger = logging.getLogger(__name__)


def indexed(root: Path, what: str, make: Callable[[], Listing], *, index: str = "auto") -> Listing:
    """The listing of `root`: out of its index if that holds, else made anew and kept for the next start.

    `what` tells listings of one folder apart. It holds while every folder (for archives: every file) that it was made
    from has the same time and size. `index`: "auto" keeps it in the user's cache folder ($ACT_ENGINE_CACHE,
    $XDG_CACHE_HOME/act_engine or ~/.cache/act_engine), a path in that folder; "renew" makes it anew, for files that
    were changed where they lie, which no folder tells; "off" makes and keeps none. One that is damaged or cannot be
    written is a warning.
    """
    if index == "off":
        return make()
    key = hashlib.blake2b(f"{what}\0{os.path.realpath(root)}".encode("utf-8", "surrogateescape"), digest_size=16)
    file = (cache_folder() if index in ("auto", "renew") else Path(index).expanduser()) / f"{key.hexdigest()}.index"
    try:
        kept = load(file, root) if index != "renew" else None
        if kept is not None and unchanged(kept, root):
            return kept
    except Exception as problem:  # our own file, but what a disk makes of it may raise anything
        logger.warning("data.index: %s is damaged (%s); the data is listed anew", file, one_line(problem))
    listing = make()
    try:
        save(listing, file)
        return load(file, root) or listing  # mapped, so that the processes of a machine share it
    except OSError as problem:
        why = problem.strerror or problem
        logger.warning("data.index: %s cannot be written (%s); the next start lists the data again", file, why)
        return listing


def cache_folder() -> Path:
    """Where indexes lie unless a run says otherwise."""
    own = os.environ.get("ACT_ENGINE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "act_engine"


def unchanged(listing: Listing, root: Path) -> bool:
    """Whether everything that a listing was made from has the time and size it had then."""
    try:
        return all(stamp(root / name) == then for name, then in listing.stamps.items())
    except OSError:
        return False


def save(listing: Listing, file: Path) -> None:
    """Write a listing, whole or not at all; OSError where it cannot be written."""
    files = listing.files
    if len(files.texts.data) >= 2**32 or (files.lengths >= 2**32).any():
        raise OSError(errno.EFBIG, "more than 4 GiB of names, or an image of more")
    edges = np.append(np.int64(0), files.texts.ends)
    arrays = {
        "text": files.texts.data,
        "edges": edges,
        "holders": files.holders,
        "lengths": files.lengths,
        "sizes": files.sizes,
        "labels": files.labels,
        **({"offsets": files.offsets} if files.packed else {}),
    }
    arrays = {name: np.ascontiguousarray(array, DTYPES[name]) for name, array in arrays.items()}
    header: dict[str, Any] = {
        "containers": files.containers,
        "packed": files.packed,
        "classes": listing.classes,
        "unused": listing.unused,
        "bad": listing.bad,
        "stamps": listing.stamps,
        "shapes": {name: array.shape for name, array in arrays.items()},
    }
    content = json.dumps(header).encode()
    content += b" " * (-(len(MAGIC) + 8 + len(content)) % ALIGNED)
    parts = [content]
    for array in arrays.values():
        parts += [array.tobytes(), bytes(-array.nbytes % ALIGNED)]
    length = len(content).to_bytes(4, "little")
    checksum = zlib.crc32(length)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as opened:
            opened.writelines([MAGIC, checksum.to_bytes(4, "little"), length, *parts])
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def load(file: Path, root: Path) -> Listing | None:
    """Map an index; None where there is none.

    Raises:
        ValueError, OSError: it is damaged.
    """
    try:
        with open(file, "rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        return None
    view = memoryview(mapped)
    begin = len(MAGIC) + 8
    if bytes(view[: len(MAGIC)]) != MAGIC or zlib.crc32(view[len(MAGIC) + 4 :]) != int.from_bytes(view[8:12], "little"):
        raise ValueError("its checksum is another")
    end = begin + int.from_bytes(view[12:16], "little")
    header = json.loads(bytes(view[begin:end]))
    arrays = {}
    for name, shape in header["shapes"].items():
        dtype = np.dtype(DTYPES[name])
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(view, dtype, count, end).reshape(shape)
        end += -(-count * dtype.itemsize // ALIGNED) * ALIGNED
    count = len(arrays["labels"])
    return Listing(
        files=ImageFiles(
            root=str(root),
            containers=tuple(header["containers"]),
            packed=header["packed"],
            holders=arrays["holders"],
            texts=Texts.between(arrays["text"], arrays["edges"]),
            offsets=arrays.get("offsets", np.broadcast_to(np.int64(0), count)),
            lengths=arrays["lengths"],
            sizes=arrays["sizes"],
            labels=arrays["labels"],
        ),
        classes=None if header["classes"] is None else tuple(header["classes"]),
        unused=header["unused"],
        bad=tuple(header["bad"]),
        stamps=header["stamps"],
    )
