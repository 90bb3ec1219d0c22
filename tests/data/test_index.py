"""The index of image files: made once, found again, made anew when anything changed, never in the way."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from act_engine.data import build_data, describe_data
from act_engine.data.image_folder import indexed_classes
from act_engine.data.index import load

PATHS = {"image_folder": "image_tree", "webdataset": "image_shards"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Counts opens, listings and stats of places below a folder, from each call to the next."""
    counted = {"open": 0, "scandir": 0, "stat": 0}

    def count(name: str) -> None:
        original = getattr(os, name)

        def call(*arguments, **options):
            counted[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in counted:
        count(name)

    def read() -> dict[str, int]:
        found = dict(counted)
        counted.update(dict.fromkeys(counted, 0))
        return found

    return read


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """Copies of the sample data that may be changed."""
    return {
        name: Path(shutil.copytree(request.getfixturevalue(fixture), tmp_path / name))
        for name, fixture in PATHS.items()
    }


def build(name: str, path: Path, index: Path | str, **options):
    return build_data(name, path=str(path), batch_size=4, image_size=32, index=str(index), **options)


@pytest.mark.parametrize("name", PATHS)
def test_the_second_start_opens_nothing_and_finds_the_same(name: str, places: dict, tmp_path: Path, calls):
    plain = describe_data(build(name, places[name], "off"))
    calls()
    first = describe_data(build(name, places[name], tmp_path / "index"))
    before = calls()
    second = build(name, places[name], tmp_path / "index")
    after = calls()
    assert plain == first == describe_data(second)
    images = 54
    assert before["open"] >= (images if name == "image_folder" else 0)  # shards are opened once for all of theirs
    assert after["open"] == 0
    assert after["scandir"] <= 12  # the folders above the images
    assert not second.train.files.labels.flags.writeable  # mapped, not read
    loaders = [build(name, places[name], index).train for index in ("off", tmp_path / "index")]
    batches = [[batch.images for batch in loader.epoch(0)] for loader in loaders]
    assert all(np.array_equal(one, other) for one, other in zip(*batches, strict=True))


def add(path: Path) -> None:
    shutil.copy(path / "train/class_0/0000.jpg", path / "train/class_0/new.jpg")


def nest(path: Path) -> None:
    (path / "train/class_1/more").mkdir()
    os.rename(path / "train/class_1/0000.jpg", path / "train/class_1/more/0000.jpg")


def remove(path: Path) -> None:
    (path / "train/class_3/0002.jpg").unlink()


def rename_class(path: Path) -> None:
    for split in ("train", "val"):
        os.rename(path / split / "class_0", path / split / "zebra")


@pytest.mark.parametrize("change", [add, nest, remove, rename_class])
def test_a_changed_tree_is_listed_anew(change, places: dict, tmp_path: Path):
    tree = places["image_folder"]
    before = describe_data(build("image_folder", tree, tmp_path / "index"))
    time.sleep(0.02)  # a file system's clock ticks every few milliseconds
    change(tree)
    after = describe_data(build("image_folder", tree, tmp_path / "index"))
    assert after == describe_data(build("image_folder", tree, "off")) != before


def test_a_file_changed_where_it_lies_is_told_when_it_is_read(
    places: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """No folder's time tells of it; a run that meets it says how to list anew."""
    monkeypatch.setenv("ACT_ENGINE_CACHE", str(tmp_path / "cache"))
    tree = places["image_folder"]
    build("image_folder", tree, "auto")
    picture = tree / "val/class_0/0001.jpg"
    for content in (picture.read_bytes() + b"more", picture.read_bytes()[:-500]):
        picture.write_bytes(content)
        with pytest.raises(ValueError, match=r"0001\.jpg: it has .* bytes of when it was listed.*index renew"):
            list(build("image_folder", tree, "auto").test.epoch(0))
    picture.write_bytes(content + b"\xff\xd9")
    assert len(list(build("image_folder", tree, "renew").test.epoch(0))) == 3


def test_a_changed_shard_is_listed_anew(places: dict, tmp_path: Path):
    shards = places["webdataset"]
    build("webdataset", shards, tmp_path / "index")
    shutil.copy(shards / "train/000000.tar", shards / "train/000009.tar")
    assert build("webdataset", shards, tmp_path / "index").train.num_samples == 53
    shutil.copy(shards / "train/000004.tar", shards / "train/000000.tar")  # 8 samples in the place of 9
    assert build("webdataset", shards, tmp_path / "index").train.num_samples == 52


def test_a_damaged_index_is_made_anew(image_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = indexed_classes(image_tree / "train", 1, str(tmp_path))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    random = np.random.default_rng(0)
    damages = [b"", content[:7], content[:40], content[:-1], b"\0" * len(content)]
    spots = random.integers(0, len(content), 40)
    damages += [content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :] for at in spots]
    for damaged in damages:
        (tmp_path / "other").write_bytes(damaged)
        os.replace(tmp_path / "other", file)  # the one before is mapped
        caplog.clear()
        again = indexed_classes(image_tree / "train", 1, str(tmp_path))
        assert "is damaged" in caplog.text
        assert again.files.names == whole.files.names
        assert file.read_bytes() == content


def test_a_full_or_closed_disk_is_a_warning(
    image_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert len(indexed_classes(image_tree / "train", 1, str(tmp_path)).files) == 44
    assert "cannot be written (No space left on device)" in caplog.text
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert len(indexed_classes(image_tree / "train", 1, str(tmp_path / "file" / "folder")).files) == 44
    assert "Not a directory" in caplog.text


def test_an_evaluation_looks_at_its_own_split_alone(places: dict, tmp_path: Path, calls):
    for name in PATHS:
        whole = build(name, places[name], "off", num_classes=4)
        calls()
        data = build(name, places[name], "off", num_classes=4, train=False)
        opened = calls()["open"]
        assert data.train is None
        assert opened == (10 if name == "image_folder" else 0)
        assert data.test.identity()["digest"] == whole.test.identity()["digest"]
        assert data.num_classes == 4


def test_names_of_a_million_images_are_small(tmp_path: Path):
    """ImageNet's own: 1,281,167 names such as n01440764_10026.JPEG in 1,000 folders, in an index of at most 70 MB."""
    from act_engine.data.files import ImageFiles, Texts
    from act_engine.data.index import save
    from act_engine.data.listing import Listing

    count, folders = 1_281_167, 1000
    data = np.frombuffer(b"n01440764_10026.JPEG", np.uint8)
    texts = Texts.between(np.tile(data, count), np.arange(count + 1) * len(data))
    column = np.zeros(count, np.int64)
    holders = np.arange(count) * folders // count
    names = tuple(f"n{number:08d}" for number in range(folders))
    files = ImageFiles("/", names, False, holders, texts, column, column, np.zeros((count, 2), np.int64), holders)
    save(Listing(files, names, stamps={name: [10**18, 0] for name in names}), tmp_path / "a.index")
    assert (tmp_path / "a.index").stat().st_size <= 70e6
    kept = load(tmp_path / "a.index", Path("/"))
    assert kept.files.name(count - 1) == "/n00000999/n01440764_10026.JPEG"
