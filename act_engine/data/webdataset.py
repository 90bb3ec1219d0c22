"""WebDataset shards: uncompressed tar archives of images and labels, KEY.jpg with KEY.cls, read where they lie."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from act_engine.data import tar
from act_engine.data.files import IMAGE_SUFFIXES
from act_engine.data.foreign import BadFile, one_line, parsing
from act_engine.data.index import indexed
from act_engine.data.listing import Found, Listing, as_splits, gather, stamp
from act_engine.data.places import HELD_OUT, TRAIN, choose, is_service, scan
from act_engine.data.registry import Facts, Source
from act_engine.data.splits import Splits

SHARD, PACKED = ".tar", (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
LABEL_SUFFIXES = ("cls", "cls.txt", "json", "txt")  # the first that a sample has is its label
JSON_KEYS = ("label", "cls", "class")
MOST_LABEL = 2**20  # bytes of a label's file
MOST_SHARDS = 100_000


def webdataset(
    path: str | None,
    workers: int,
    bad_images: str,
    num_classes: int | None = None,
    holdout: float | None = None,
    index: str = "auto",
    train: bool = True,
) -> Splits:
    """List the samples of the shards at `path`, split by the words train, val, valid, validation, dev and test.

    `path` is a folder of shards, whose names or folders hold such a word; a brace list such as
    DATA/{train,val}-{000..127}.tar; or a text file with a shard a line. A sample is KEY.jpg (or another suffix of
    images) with its label in KEY.cls, KEY.cls.txt, KEY.json (`label`, `cls` or `class`) or KEY.txt: a whole number.
    Without `train` only the held-out shards are listed. `index` as in `indexed`.

    Raises:
        ValueError, FileNotFoundError: nothing usable is there, or what is meant is not clear; one line.
    """
    root, shards, left = _find_shards(path)
    by_split: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        by_split[_split_of(shard) or ("" if holdout is None else TRAIN)].append(shard)
    if by_split[""]:
        raise ValueError(
            f"data.path: {by_split[''][0]} says neither train nor {', '.join(HELD_OUT)} in its name or its folder's; "
            "rename it, or give --data.holdout 0.1 to hold out a tenth of the images"
        )
    if not by_split[TRAIN]:
        raise FileNotFoundError(f"data.path: {path} has no folder train/ with .tar shards, nor shards named train")
    tested, selecting, notes = choose([split for split in by_split if by_split[split]], root)
    if tested is None and holdout is None:
        raise FileNotFoundError(
            f"data.path: {path} has no folder val/ with .tar shards, nor shards named val; give --data.holdout 0.1 to "
            "hold out a tenth of the images"
        )
    names = {"train": TRAIN, "test": tested, "selection": selecting}
    if not train:
        del names["train"]
    listings = {}
    for split, name in names.items():
        if name is not None:
            make = partial(list_shards, root, by_split[name], workers)
            listings[split] = indexed(root, "\0".join(by_split[name]), make, index=index)
    next(iter(listings.values())).unused.update(left)
    return as_splits(listings, bad_images=bad_images, num_classes=num_classes, notes=notes, names=names)


def _find_shards(path: str | None) -> tuple[Path, list[str], dict[str, list[str]]]:
    """The folder that all lie in, the shards relative to it, sorted, and what else is there, by kind."""
    if path is None:
        raise ValueError("data.path: got None; webdataset needs the folder that holds train/ and val/")
    if "://" in path:
        raise ValueError(f"data.path: got {path!r}; allowed: a place in the file system: fetch the shards first")
    if os.path.isdir(path):
        shards, unused = [], defaultdict(list)
        _walk(Path(path), "", shards, unused)
        packed = [name for kind in PACKED for name in unused.get(kind, ())]
        if packed and not shards:
            raise ValueError(
                f"data.path: {path}/{packed[0]} is compressed; unpack it, for images are read where they lie"
            )
        if not shards:
            raise ValueError(f"data.path: {path} holds no .tar shards")
        return Path(path), shards, dict(unused)
    if os.path.isfile(path) and not path.endswith(SHARD):
        with parsing(path, "is not a list of shards, one a line"), open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file.read(2**24).splitlines() if line.strip()]
        listed = [os.path.join(os.path.dirname(path), shard) for line in lines for shard in expand_braces(line)]
    else:
        listed = expand_braces(path)
    missing = [shard for shard in listed if not os.path.isfile(shard)]
    if missing or not listed:
        what = f"there is no folder {path}" if listed == [path] else f"{missing[0] if missing else path} is no file"
        raise FileNotFoundError(f"data.path: {what}; webdataset needs a folder of .tar shards, or a list of them")
    full = [os.path.abspath(shard) for shard in listed]
    root = os.path.dirname(os.path.commonpath(full)) if len(full) == 1 else os.path.commonpath(full)
    return Path(root), sorted(os.path.relpath(shard, root) for shard in full), {}


def _walk(root: Path, folder: str, shards: list[str], unused: dict[str, list[str]]) -> None:
    for entry in scan(root / folder):
        name = os.path.join(folder, entry.name)
        if is_service(entry.name):
            unused["hidden"].append(name)
        elif entry.is_dir() and not entry.is_symlink():
            _walk(root, name, shards, unused)
        elif entry.name.lower().endswith(SHARD) and entry.is_file():
            shards.append(name)
        else:
            packed = next((kind for kind in PACKED if entry.name.lower().endswith(kind)), None)
            unused[packed or os.path.splitext(entry.name)[1] or "without suffix"].append(name)


def expand_braces(text: str) -> list[str]:
    """What a shell makes of {a,b} and {000..127}, in order; ValueError for more than 100,000 or an open brace."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        if "{" in text or "}" in text:
            raise ValueError(
                f"data.path: got {text!r}; allowed: braces that match, such as {{train,val}}-{{000..127}}.tar"
            )
        return [text]
    inner = found.group(1)
    span = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inner)
    if span:
        first, last = (int(number) for number in span.groups())
        if last - first >= MOST_SHARDS:
            raise ValueError(f"data.path: {{{inner}}} is a list of {last - first + 1:,}; allowed: {MOST_SHARDS:,}")
        words = [str(number).zfill(len(span.group(1))) for number in range(first, last + 1)]
    else:
        words = inner.split(",")
    rest = expand_braces(text[found.end() :])
    if len(words) * len(rest) > MOST_SHARDS:
        raise ValueError(f"data.path: {text!r} is a list of more than {MOST_SHARDS:,} shards; allowed: fewer")
    return [text[: found.start()] + word + end for word in words for end in rest]


def _split_of(shard: str) -> str | None:
    """The split that a shard's name says, or else its folder's, the nearest first."""
    for part in reversed(Path(shard).parts):
        words = [word for word in re.split(r"[^a-z]+", part.lower()) if word in (TRAIN, *HELD_OUT)]
        if len(set(words)) > 1:
            raise ValueError(f"data.path: {shard} says both {words[0]} and {words[1]} in its name; rename it")
        if words:
            return words[0]
    return None


@dataclass
class _Sample:
    image: tuple[str, int, int] | None = None  # suffix, offset, bytes
    labels: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # by suffix: name, offset, bytes
    others: list[tuple[str, str, int, int]] = field(default_factory=list)  # images of a longer suffix


def list_shards(root: Path, shards: list[str], threads: int = 2) -> Listing:
    """List the samples of tar shards; ValueError names the shard and the key where one is damaged or unclear."""

    def one(shard: str) -> tuple[Found, list[str]]:
        return _list_shard(root / shard, shard)

    with ThreadPoolExecutor(threads, thread_name_prefix="list-images") as pool:
        listed = list(pool.map(one, shards))
    parts = [part for part, _ in listed]
    unused: dict[str, list[str]] = defaultdict(list)
    for _, names in listed:
        for name in names:
            base = name.rpartition("/")[2]
            unused["hidden" if base.startswith(".") else os.path.splitext(base)[1] or "without suffix"].append(name)
    if not any(part.names or part.bad for part in parts):
        raise ValueError(f"data.path: the shards in {root} hold no samples")
    return Listing(
        files=gather(root, parts, packed=True),
        unused=dict(unused),
        bad=tuple(line for part in parts for line in part.bad),
        stamps={part.container: part.stamp for part in parts},
    )


def _list_shard(shard: Path, container: str) -> tuple[Found, list[str]]:
    """The images of a shard, and the names of members that belong to no sample."""
    found = Found(container, stamp=stamp(shard))
    what = "is not a whole, uncompressed tar shard"
    with parsing(shard, what), open(shard, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        samples, unused = _samples(shard, file, total)
        for key, sample in samples.items():
            label = _label_of(sample)
            if sample.image is None and label is not None and label[0].lower().endswith(".cls"):
                raise BadFile(f"data.path: {shard}: sample {key!r} has no image ({key}.jpg, {key}.cls)")
            if sample.image is None:
                unused += [name for name, *_ in sample.labels.values()]
                continue
            if label is None:
                raise BadFile(
                    f"data.path: {shard}: sample {key!r} has no label (a whole number in {key}.cls, .json or .txt)"
                )
            number = _read_label(os.pread(file.fileno(), min(label[2], MOST_LABEL), label[1]), f"{shard}: {label[0]}")
            found.add(file.fileno(), key, f"{shard}: {key}", number, sample.image[1], sample.image[2])
    return found, unused


def _samples(shard: Path, file, total: int) -> tuple[dict[str, _Sample], list[str]]:
    samples: dict[str, _Sample] = {}
    unused: list[str] = []
    for name, offset, size in tar.members(file):
        if offset + size > total:
            raise BadFile(f"data.path: {shard} is not whole: it ends within {one_line(name)}")
        folder, _, file_name = name.removeprefix("./").rpartition("/")
        stem, _, suffix = file_name.partition(".")
        suffix = suffix.lower()
        last = suffix.rpartition(".")[2]
        is_image, is_label = f".{last}" in IMAGE_SUFFIXES, last in ("cls", "json", "txt")
        if is_service(file_name) or any(map(is_service, folder.split("/"))) or not (is_image or is_label):
            unused.append(name)
            continue
        key = f"{folder}/{stem}".lstrip("/")
        sample = samples.setdefault(key, _Sample())
        if is_label:
            if suffix in sample.labels:
                raise BadFile(f"data.path: {shard}: sample {key!r} has two {file_name}; keep one of the two")
            sample.labels[suffix] = (name, offset, size)
        elif suffix == last:
            if sample.image is not None:
                both = f"{key}.{sample.image[0]} and {key}.{suffix}"
                raise BadFile(f"data.path: {shard}: sample {key!r} has two images, {both}; keep one of the two")
            sample.image = (suffix, offset, size)
        else:
            sample.others.append((suffix, name, offset, size))
    for key, sample in samples.items():
        if sample.image is None and len(sample.others) > 1:
            both = " and ".join(f"{key}.{suffix}" for suffix, *_ in sample.others[:2])
            raise BadFile(f"data.path: {shard}: sample {key!r} has two images, {both}; keep one of the two")
        if sample.image is None and sample.others:
            suffix, _, *place = sample.others.pop()
            sample.image = (suffix, *place)
        unused += [name for _, name, *_ in sample.others]
    return samples, unused


def _label_of(sample: _Sample) -> tuple[str, int, int] | None:
    for wanted in LABEL_SUFFIXES:
        for suffix, place in sample.labels.items():
            if suffix == wanted or suffix.endswith(f".{wanted}"):
                return place
    return None


def _read_label(content: bytes, name: str) -> int:
    """A label's number; ValueError where its file holds another thing."""
    text = content.decode("utf-8", "replace").strip()
    if name.lower().endswith(".json"):
        with parsing(name, "is not JSON with a label"):
            values = json.loads(text)
            if not isinstance(values, dict) or not any(key in values for key in JSON_KEYS):
                raise ValueError(f"it has none of {', '.join(JSON_KEYS)}")
            text = next(str(values[key]) for key in JSON_KEYS if key in values)
    if not re.fullmatch(r"[+-]?\d{1,18}", text):
        raise BadFile(f"data.path: {name} holds {content[:20]!r}; a label is one whole number")
    return int(text)


SOURCES = (
    Source(
        "webdataset",
        webdataset,
        Facts(images=1_281_167, num_classes=1000, shape=None),  # ImageNet-1k
        augmentations=("resized_crop_flip", "randaugment", "none"),
        streamed=True,
    ),
)
