"""What tells a data set from another: its classes, counts and content, and not where it lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from act_engine.data import Data, build_data, describe_data, identity, require_same
from act_engine.data.arrays import ArrayLoader


def build(path: Path, name: str = "image_folder", **options):
    return build_data(name, path=str(path), batch_size=4, image_size=32, index="off", **options)


def compare(recorded: dict, data: Data) -> None:
    for split, saved in recorded.items():
        require_same(saved, identity(getattr(data, split)), split, "the run")


@pytest.fixture
def tree(image_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_tree, tmp_path / "tree"))


def add_image(tree: Path) -> None:
    shutil.copy(tree / "train/class_0/0000.jpg", tree / "train/class_0/9999.jpg")


def move_image(tree: Path) -> None:
    os.rename(tree / "train/class_0/0000.jpg", tree / "train/class_1/new.jpg")


def rename_class(tree: Path) -> None:
    for split in ("train", "val"):
        os.rename(tree / split / "class_0", tree / split / "zebra")


def other_image(tree: Path) -> None:
    path = tree / "train/class_0/0000.jpg"
    Image.open(path).rotate(180).save(path, quality=70)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_image, "44 images there, 45 here"),
        (move_image, "11 images of class 'class_0' there, 10 here"),
        (rename_class, "class 0 is 'class_0' there, 'class_1' here"),
        (other_image, "as many images of each class, but other ones"),
    ],
)
def test_other_files_are_told_from_those_recorded(tree: Path, change, words: str):
    recorded = json.loads(json.dumps(describe_data(build(tree))))
    compare(recorded, build(tree))
    change(tree)
    with pytest.raises(ValueError, match=rf"data\.path: the train images are not those of the run: {words}"):
        compare(recorded, build(tree))


def test_moved_data_and_other_ranks_are_the_same(image_tree: Path, image_shards: Path, tmp_path: Path):
    for name, path in (("image_folder", image_tree), ("webdataset", image_shards)):
        recorded = describe_data(build(path, name, selection_samples=8))
        moved = Path(shutil.copytree(path, tmp_path / name))
        data = build(moved, name, selection_samples=8, rank=1, world_size=2)
        compare(recorded, data)
        assert describe_data(data) == recorded
        assert sum(recorded["train"]["counts"]) == recorded["train"]["images"] == 36


def test_what_data_json_says_of_files(tree: Path):
    (tree / "train/class_0/notes.txt").write_text("note")
    (tree / "train/class_1/.thumb.jpg").write_bytes(b"")
    described = describe_data(build(tree))
    assert described["train"]["classes"] == [f"class_{number}" for number in range(4)]
    assert described["train"]["counts"] == [11] * 4
    assert described["train"]["unused"] == {".txt": ["class_0/notes.txt"], "hidden": ["class_1/.thumb.jpg"]}
    assert described["test"]["images"] == 10


def test_arrays_are_told_apart_by_every_pixel_and_label():
    images, labels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8), np.arange(12) % 3

    def digest(images: np.ndarray, labels: np.ndarray) -> str:
        return ArrayLoader(images, labels, 2, shuffle=True).identity()["digest"]

    pixel, label = images.copy(), labels.copy()
    pixel[5, 1, 2, 0] ^= 1
    label[[1, 2]] = label[[2, 1]]
    digests = {digest(images, labels), digest(pixel, labels), digest(images, label)}
    digests |= {digest(images.reshape(12, 2, 8, 3), labels), digest(images.view(np.int8).astype(np.float32), labels)}
    assert len(digests) == 5
    assert digest(images.copy(), labels.astype(np.int32)) == digest(images, labels)
