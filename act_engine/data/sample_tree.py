"""Make a small labelled image set from scikit-learn's two sample photographs: `python -m act_engine.data.sample_tree`.

It lets the ImageNet path run end to end with no download: JPEG class folders, or the same pictures as tar shards.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from act_engine.errors import shown

QUALITY = 90


def pictures(classes: int, count: int, size: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield `count` (label, `[h, w, 3]` uint8) for each class: crops of about `size` pixels, varied in shape and light.

    A class is one vertical band of one of the photographs, so that the classes can be told apart.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    bands = -(-classes // len(photographs))
    random = np.random.default_rng(seed)
    for number in range(count):
        for label in range(classes):
            photograph = photographs[label % len(photographs)]
            band = photograph.shape[1] // bands
            left_edge = label // len(photographs) * band
            height, width = (int(side) for side in random.integers(size * 3 // 4, size + 1, 2))
            width = min(width, band)
            height = min(height, photograph.shape[0])
            top = random.integers(0, photograph.shape[0] - height + 1)
            left = left_edge + random.integers(0, band - width + 1)
            crop = photograph[top : top + height, left : left + width] * random.uniform(0.7, 1.0)
            yield label, (crop[:, ::-1] if number % 2 else crop).astype(np.uint8)


def write_tree(folder: str | Path, *, classes: int = 4, train: int = 16, test: int = 4, size: int = 256) -> Path:
    """Write `folder/{train,val}/class_K/NNNN.jpg`, `train` and `test` pictures a class, and return `folder`."""
    from PIL import Image

    for seed, (split, count) in enumerate((("train", train), ("val", test))):
        for number, (label, picture) in enumerate(pictures(classes, count, size, seed)):
            target = Path(folder, split, f"class_{label}", f"{number // classes:04d}.jpg")
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(target, quality=QUALITY)
    return Path(folder)


def tree_to_shards(tree: str | Path, folder: str | Path, samples_per_shard: int = 1000) -> Path:
    """Write the class folders under `tree` as WebDataset shards `folder/{train,val}/NNNNNN.tar`; return `folder`.

    The images' bytes are copied as they are; labels are the classes' sorted order.
    """
    from act_engine.data.image_folder import list_class_folders

    for split in ("train", "val"):
        files = list_class_folders(Path(tree, split)).files
        target = Path(folder, split)
        target.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(files), samples_per_shard):
            with tarfile.open(target / f"{first // samples_per_shard:06d}.tar", "w") as shard:
                for index in range(first, min(first + samples_per_shard, len(files))):
                    suffix = Path(files.name(index)).suffix.lower()
                    _add(shard, f"{index:08d}{suffix}", files.read(index))
                    _add(shard, f"{index:08d}.cls", str(files.labels[index]).encode())
    return Path(folder)


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {message.removeprefix('argument ')}", file=sys.stderr)
        raise SystemExit(2)


def _between(least: int, most: int) -> Callable[[str], int]:
    def read(word: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", word) or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"got {shown(word)}; allowed: a whole number, {least} to {most}")
        return int(word)

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sample set, or turn an existing tree into shards; returns the exit code."""
    parser = _Parser(prog="python -m act_engine.data.sample_tree", description=__doc__, allow_abbrev=False)
    parser.add_argument("output", type=Path, help="the folder to write")
    parser.add_argument("--classes", type=_between(1, 1000), default=4)
    parser.add_argument("--train", type=_between(1, 10**6), default=64, help="training images a class")
    parser.add_argument("--test", type=_between(1, 10**6), default=16, help="held-out images a class")
    parser.add_argument("--size", type=_between(8, 4096), default=256, help="about how many pixels a side")
    parser.add_argument("--shards-from", type=Path, metavar="TREE", help="write this image tree as tar shards instead")
    options = parser.parse_args(argv)
    try:
        if options.shards_from is not None:
            tree_to_shards(options.shards_from, options.output)
        else:
            counts = {"classes": options.classes, "train": options.train, "test": options.test, "size": options.size}
            write_tree(options.output, **counts)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
