"""Layouts and odd files as users have them: each is read as its owner expects, or refused in one line that says why.

Every row makes a place out of a small tree of real JPEGs: 3 classes of 4 pictures to train on and 2 held out.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from act_engine.data import build_data, find_source
from act_engine.data.sample_tree import tree_to_shards, write_tree
from act_engine.data.splits import Splits


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tree = write_tree(tmp_path_factory.mktemp("tree"), classes=3, train=4, test=2, size=40)
    return {"tree": tree, "shards": tree_to_shards(tree, tmp_path_factory.mktemp("shards"), samples_per_shard=5)}


@pytest.fixture
def tree(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["tree"], tmp_path / "data"))


@pytest.fixture
def shards(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["shards"], tmp_path / "data"))


def read(name: str, path: Any, **options: Any) -> Splits:
    defaults = {key: value.default for key, value in inspect.signature(build_data).parameters.items()}
    return find_source(name).read({**defaults, "path": str(path), "index": "off", **options})


class Row(NamedTuple):
    """What is done to the tree, and what is expected: training and test images and words of the notes, or an error."""

    make: Callable[[Path], Any]  # may return the path to give
    expected: tuple[int, int] | str
    notes: str = ""
    options: dict[str, Any] = {}  # noqa: RUF012


def picture(tree: Path) -> Image.Image:
    return Image.open(next((tree / "train").rglob("*.jpg"))).convert("RGB")


def encoded(tree: Path) -> bytes:
    return next((tree / "train").rglob("*.jpg")).read_bytes()


def nested(tree: Path) -> None:
    (tree / "train/class_0/sub/deeper").mkdir(parents=True)
    for number, place in ((0, "sub"), (1, "sub/deeper")):
        (tree / f"train/class_0/000{number}.jpg").rename(tree / f"train/class_0/{place}/000{number}.jpg")


def all_nested(tree: Path) -> None:
    (tree / "train/class_0").rename(tree / "train/moved")
    (tree / "train/class_0").mkdir()
    (tree / "train/moved").rename(tree / "train/class_0/images")


def suffixes(tree: Path) -> None:
    for suffix in ("webp", "bmp", "tif", "tiff", "ppm", "pgm", "jpe", "jfif", "PNG"):
        kind = {"jpe": "JPEG", "jfif": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper())
        (picture(tree).convert("L") if suffix == "pgm" else picture(tree)).save(
            tree / f"train/class_1/a.{suffix}", kind
        )


def renamed(**names: str) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        for old, new in names.items():
            shutil.copytree(tree / old, tree / new) if (tree / new).exists() else (tree / old).rename(tree / new)

    return make


def copied(**names: str) -> Callable[[Path], None]:
    """Each new folder is a copy of the old one; folders named by `None` go."""

    def make(tree: Path) -> None:
        for new, old in names.items():
            shutil.copytree(tree / old, tree / new)

    return make


def three_splits(name: str) -> Callable[[Path], None]:
    def make(tree: Path) -> None:
        (tree / "val").rename(tree / name)
        shutil.copytree(tree / name, tree / "test")
        (tree / "test/class_0/0000.jpg").unlink()

    return make


def upper_case(tree: Path) -> None:
    (tree / "train").rename(tree / "Train")
    (tree / "val").rename(tree / "VAL")


def clutter(tree: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", "._0001.jpg", "notes.txt"):
        (tree / "train/class_0" / name).write_bytes(b"not a picture")
    for folder in ("train/class_0/.ipynb_checkpoints", "train/class_1/@eaDir/0000.jpg", "train/__MACOSX/class_0"):
        (tree / folder).mkdir(parents=True)
        shutil.copy(tree / "train/class_0/0000.jpg", tree / folder / "SYNO_THUMB.jpg")


def empty_class(tree: Path) -> None:
    (tree / "train/nothing").mkdir()


def case_twins(tree: Path) -> None:
    shutil.copytree(tree / "train/class_0", tree / "train/Class_0")


def accent_twins(tree: Path) -> None:
    for form in ("NFC", "NFD"):
        shutil.copytree(tree / "train/class_0", tree / "train" / unicodedata.normalize(form, "café"))


def accents_differ_by_split(tree: Path) -> None:
    (tree / "train/class_0").rename(tree / "train" / unicodedata.normalize("NFC", "café"))
    (tree / "val/class_0").rename(tree / "val" / unicodedata.normalize("NFD", "café"))


def split_twins(tree: Path) -> None:
    shutil.copytree(tree / "val", tree / "Val")


def not_utf8(tree: Path) -> None:
    os.rename(tree / "train/class_0", os.fsencode(tree / "train") + b"/caf\xe9")


def file_not_utf8(tree: Path) -> None:
    os.rename(tree / "train/class_0/0000.jpg", os.fsencode(tree / "train/class_0") + b"/caf\xe9.jpg")


def odd_names(tree: Path) -> None:
    for number, name in enumerate(("a b'\".jpg", "猫.jpg", "x" * 240 + ".jpg", "a.b.c.jpg")):
        (tree / f"train/class_0/000{number}.jpg").rename(tree / "train/class_0" / name)


def links(tree: Path) -> None:
    (tree / "train/class_0").rename(tree / "elsewhere")
    (tree / "train/class_0").symlink_to(tree / "elsewhere")
    (tree / "train/class_1/0000.jpg").rename(tree / "picture.jpg")
    (tree / "train/class_1/0000.jpg").symlink_to(tree / "picture.jpg")


def broken_link(tree: Path) -> None:
    (tree / "train/class_1/9.jpg").symlink_to(tree / "nowhere.jpg")


def circular_link(tree: Path) -> None:
    (tree / "train/class_1/up").symlink_to(tree / "train/class_1")


def fifo(tree: Path) -> None:
    os.mkfifo(tree / "train/class_1/pipe.jpg")


def no_split(tree: Path) -> Path:
    return tree / "train"


def no_held_out(tree: Path) -> None:
    shutil.rmtree(tree / "val")


def flat_val(names: str, write: Callable[[Path, list[tuple[str, str]]], None]) -> Callable[[Path], None]:
    """The held-out pictures in one folder, and a list of their classes."""

    def make(tree: Path) -> None:
        rows = []
        for number, path in enumerate(sorted((tree / "val").rglob("*.jpg"))):
            rows.append((f"ILSVRC2012_val_{number:08d}.jpg", path.parent.name))
            path.rename(tree / "val" / rows[-1][0])
        for folder in (tree / "val").iterdir():
            if folder.is_dir():
                folder.rmdir()
        write(tree / names, rows)

    return make


def lines(form: str, header: str = "") -> Callable[[Path, list[tuple[str, str]]], None]:
    def write(file: Path, rows: list[tuple[str, str]]) -> None:
        text = "".join(form.format(name=name, stem=name[:-4], label=label, number=label[-1]) for name, label in rows)
        file.write_text(header + text)

    return write


def path_lists(tree: Path) -> None:
    for split in ("train", "val"):
        rows = [(path, path.parent.name) for path in sorted((tree / split).rglob("*.jpg"))]
        (tree / f"{split}.csv").write_text("".join(f"{p.relative_to(tree)},{label}\n" for p, label in rows))
    (tree / "train").rename(tree / "pictures")
    (tree / "train.csv").write_text((tree / "train.csv").read_text().replace("train/", "pictures/"))
    (tree / "val").rename(tree / "held")
    (tree / "val.csv").write_text((tree / "val.csv").read_text().replace("val/", "held/"))


def kaggle(tree: Path) -> Path:
    flat_val("list", lambda file, rows: lines("{stem},{label} 1 2 3 4\n", "ImageId,PredictionString\n")(file, rows))(
        tree
    )
    inner = tree / "kaggle/ILSVRC/Data/CLS-LOC"
    inner.mkdir(parents=True)
    (tree / "list").rename(tree / "kaggle/LOC_val_solution.csv")
    for split in ("train", "val"):
        (tree / split).rename(inner / split)
    (inner / "test").mkdir()
    (inner / "test/ILSVRC2012_test_00000001.JPEG").write_bytes(encoded(inner))
    return tree / "kaggle"


def tiny_imagenet(tree: Path) -> None:
    flat_val("val/val_annotations.txt", lines("{name}\t{label}\t0\t0\t62\t62\n"))(tree)
    (tree / "val/images").mkdir()
    for path in (tree / "val").glob("*.jpg"):
        path.rename(tree / "val/images" / path.name)
    for path in list((tree / "train").iterdir()):
        path.rename(tree / "moved")
        path.mkdir()
        (path / f"{path.name}_boxes.txt").write_text("0 0 1 1")
        (tree / "moved").rename(path / "images")


FOLDERS = {
    "nested": Row(nested, (12, 6), "train: 12 images in 3 classes"),
    "all nested": Row(all_nested, (12, 6)),
    "other suffixes": Row(suffixes, (21, 6)),
    "valid and test": Row(three_splits("valid"), (12, 5), "valid: chooses checkpoints"),
    "validation and test": Row(three_splits("validation"), (12, 5), "test: what is reported"),
    "dev and test": Row(three_splits("dev"), (12, 5), "dev: chooses checkpoints"),
    "valid alone": Row(renamed(val="valid"), (12, 6), "valid: 6 images"),
    "test alone": Row(renamed(val="test"), (12, 6), "test: 6 images"),
    "val and valid": Row(copied(valid="val"), "holds both val and valid; keep one"),
    "upper case": Row(upper_case, (12, 6)),
    "split twins": Row(split_twins, "holds 'Val' and 'val', which differ by case alone"),
    "clutter": Row(clutter, (12, 6), "not used: 1 .db, 1 .txt, 3 hidden, 2 system folder"),
    "empty class": Row(empty_class, "the class folder .*nothing holds no image"),
    "case twins": Row(case_twins, "holds 'Class_0' and 'class_0', which differ by case alone"),
    "accent twins": Row(accent_twins, "differ by the spelling of an accent alone"),
    "accents differ by split": Row(accents_differ_by_split, (12, 6)),
    "class not UTF-8": Row(not_utf8, "has a name that is no UTF-8"),
    "file not UTF-8": Row(file_not_utf8, (12, 6)),
    "odd names": Row(odd_names, (12, 6)),
    "links": Row(links, (12, 6)),
    "link to nothing": Row(broken_link, r"9\.jpg: No such file or directory; 1 bad image"),
    "link to nothing, skipped": Row(broken_link, (12, 6), "1 bad", {"bad_images": "skip"}),
    "link that leads back up": Row(circular_link, "links to a folder that it lies in"),
    "a pipe named .jpg": Row(fifo, (12, 6), "not used: 1 no regular file"),
    "no splits": Row(no_split, "no folder train/; .*--data.holdout 0.1"),
    "no splits, a share": Row(no_split, (12, 0), "", {"holdout": 0.25}),
    "no held-out split": Row(no_held_out, "no folder val/; .*--data.holdout 0.1"),
    "flat val": Row(flat_val("other", lambda *_: None), r"val holds no class folders; .*a list of image and class"),
    "flat val, CSV": Row(flat_val("val.csv", lines("{name},{label}\n", "file,class\n")), (12, 6)),
    "flat val, words": Row(flat_val("val.txt", lines("{name} {label}\n")), (12, 6)),
    "flat val, numbers": Row(flat_val("val.txt", lines("{name} {number}\n")), (12, 6)),
    "flat val, labels in order": Row(flat_val("val_labels.txt", lines("{label}\n")), (12, 6)),
    "flat val, ILSVRC's numbers": Row(flat_val("val_labels.txt", lines("{number}\n")), "order of their own"),
    "flat val, a label too few": Row(
        flat_val("val_labels.txt", lambda file, rows: lines("{label}\n")(file, rows[1:])), "5 labels for 6 images"
    ),
    "flat val, unknown class": Row(
        flat_val("val.csv", lines("{name},dog\n")), "label 'dog', which is no class of train"
    ),
    "flat val, twice": Row(
        flat_val("val.csv", lambda file, rows: lines("{name},{label}\n")(file, rows * 2)), "lists .* twice"
    ),
    "flat val, unlisted": Row(
        flat_val("val.csv", lambda file, rows: lines("{name},{label}\n")(file, rows[1:])),
        (12, 5),
        "1 images without a label",
    ),
    "flat val, no such file": Row(flat_val("val.csv", lines("x{name},{label}\n")), "lists .*, which is no file"),
    "flat val, UTF-16": Row(
        flat_val("val.csv", lambda file, rows: file.write_text("a,b\n", "utf-16")), r"val\.csv is not a list"
    ),
    "lists of paths": Row(path_lists, (12, 6)),
    "Kaggle's ImageNet": Row(kaggle, (12, 6), "test: not used, for its images have no labels"),
    "tiny ImageNet": Row(tiny_imagenet, (12, 6), "not used: 3 .txt"),
    "val lacks a class": Row(lambda tree: shutil.rmtree(tree / "val/class_1"), "val lacks the class folder 'class_1'"),
    "val has a class more": Row(
        copied(**{"val/more": "val/class_1"}), "val has, and train/ lacks, the class folder 'more'"
    ),
    "HTML named .jpg": Row(
        lambda tree: (tree / "train/class_0/x.jpg").write_text("<html>") and None, "neither a JPEG nor a PNG"
    ),
}


@pytest.mark.parametrize("layout", FOLDERS)
def test_folders(tree: Path, layout: str):
    check(layout, FOLDERS[layout], "image_folder", tree)


def check(layout: str, row: Row, name: str, place: Path) -> Splits | None:
    path = row.make(place) or place
    if isinstance(row.expected, str):
        with pytest.raises((ValueError, FileNotFoundError), match=row.expected) as error:
            read(name, path, **row.options)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(("data.", "model."))
        return None
    splits = read(name, path, **row.options)
    assert (len(splits.train), 0 if splits.test is None else len(splits.test)) == row.expected
    assert row.notes in "\n".join(splits.notes)
    return splits


def test_the_labels_of_odd_layouts_are_those_of_the_tree(tree: Path, originals: dict[str, Path]):
    """Whatever way the held-out labels come in, each picture keeps its own."""
    expected = read("image_folder", originals["tree"]).test
    for layout in (
        "flat val, CSV",
        "flat val, words",
        "flat val, numbers",
        "flat val, labels in order",
        "Kaggle's ImageNet",
    ):
        shutil.rmtree(tree)
        shutil.copytree(originals["tree"], tree)
        found = read("image_folder", FOLDERS[layout].make(tree) or tree).test
        assert found.labels.tolist() == expected.labels.tolist()
        assert [found.read(index) for index in range(6)] == [expected.read(index) for index in range(6)]


def test_nested_classes_are_ordered_as_torchvision_does(tree: Path):
    from torchvision.datasets import ImageFolder

    nested(tree)
    for name in ("sub-2", "sub.3"):
        shutil.copytree(tree / "train/class_0/sub", tree / "train/class_0" / name)
    theirs = ImageFolder(str(tree / "train"))
    ours = read("image_folder", tree)
    assert [str(path) for path in ours.train.names] == [path for path, _ in theirs.samples]
    assert ours.train.labels.tolist() == theirs.targets
    assert list(ours.classes) == theirs.classes


def shard(path: Path, members: dict[str, bytes], mode: str = "w", whole: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name.rstrip("#"))  # one # more for each equal name
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if not whole:
        content = path.read_bytes()
        path.write_bytes(content[: len(content.rstrip(b"\0")) // 512 * 512 + 512])


def more(members: Callable[[bytes], dict[str, bytes]], **options: Any) -> Callable[[Path], None]:
    """A shard more to train on."""

    def make(shards: Path) -> None:
        with tarfile.open(shards / "train/000000.tar") as archive:
            image = archive.extractfile(archive.getmembers()[0]).read()
        shard(shards / "train/more.tar", members(image), **options)

    return make


def png(image: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).save(file, "PNG")
    return file.getvalue()


def webp(image: bytes) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).save(file, "WEBP")
    return file.getvalue()


def flat_shards(shards: Path) -> None:
    for split in ("train", "val"):
        for path in (shards / split).iterdir():
            path.rename(shards / f"imagenet-{split}-{path.name}")
        (shards / split).rmdir()


def in_subfolders(shards: Path) -> None:
    (shards / "train/part-0").mkdir()
    (shards / "train/000000.tar").rename(shards / "train/part-0/000000.tar")


def brace_list(shards: Path) -> str:
    flat_shards(shards)
    (shards / "imagenet-val-000001.tar").rename(shards / "spare.tar")
    shutil.copy(shards / "spare.tar", shards / "imagenet-val-000001.tar")
    shutil.copy(shards / "spare.tar", shards / "imagenet-val-000002.tar")
    return f"{shards}/imagenet-{{train,val}}-{{000000..000001}}.tar"


def shard_list(shards: Path) -> Path:
    (shards / "all.txt").write_text("train/{000000..000002}.tar\n\nval/000000.tar\nval/000001.tar\n")
    return shards / "all.txt"


def unnamed(shards: Path) -> Path:
    return shards / "train"


def compressed(shards: Path) -> Path:
    place = shards / "packed"
    shard(place / "train/0.tar.gz", {"a.jpg": b"J", "a.cls": b"0"}, "w:gz")
    return place


def gzip_named_tar(shards: Path) -> None:
    shard(shards / "train/000000.tar", {"a.jpg": b"J", "a.cls": b"0"}, "w:gz")


def tar_of_tars(shards: Path) -> None:
    content = (shards / "train/000000.tar").read_bytes()
    shard(shards / "train/000000.tar", {"n01440764.tar": content})
    for name in ("000001", "000002"):
        (shards / f"train/{name}.tar").unlink()


def labels_from_one(shards: Path) -> None:
    with tarfile.open(shards / "train/000000.tar") as archive:
        image = archive.extractfile(archive.getmembers()[0]).read()
    for path in shards.rglob("*.tar"):
        shard(path, {f"{n}.{kind}": part for n in (1, 2, 3) for kind, part in (("jpg", image), ("cls", b"%d" % n))})


SHARDS = {
    "as written": Row(lambda shards: None, (12, 6), "train: 12 images in 3 classes"),
    "picture and mask": Row(
        more(lambda image: {"a.jpg": image, "a.png": png(image), "a.cls": b"0"}), r"two images, a\.jpg and a\.png"
    ),
    "picture and named mask": Row(
        more(lambda image: {"a.jpg": image, "a.seg.png": png(image), "a.cls": b"0"}), (13, 6), "1 .png"
    ),
    "equal keys": Row(
        more(lambda image: {"a.jpg": image, "a.cls": b"0", "a.jpg#": image}), r"sample 'a' has two images"
    ),
    "equal labels": Row(more(lambda image: {"a.jpg": image, "a.cls": b"0", "a.cls#": b"1"}), r"sample 'a' has two"),
    "no end marker": Row(more(lambda image: {"a.jpg": image, "a.cls": b"0"}, whole=False), "has no end marker"),
    "JSON labels": Row(more(lambda image: {"a.jpg": image, "a.json": b'{"label": 2, "x": [1]}'}), (13, 6)),
    "JSON without a label": Row(
        more(lambda image: {"a.jpg": image, "a.json": b"[1]"}), r"a\.json is not JSON with a label"
    ),
    "text labels": Row(more(lambda image: {"a.jpg": image, "a.txt": b"2\n"}), (13, 6)),
    "captions": Row(more(lambda image: {"a.jpg": image, "a.txt": b"a cat"}), r"holds b'a cat'; a label is one whole"),
    "captions beside labels": Row(more(lambda image: {"a.jpg": image, "a.txt": b"a cat", "a.cls": b"1"}), (13, 6)),
    "input and target": Row(more(lambda image: {"a.input.jpg": image, "a.target.cls": b"1"}), (13, 6)),
    "keys with folders": Row(more(lambda image: {"./x.y/a.jpg": image, "./x.y/a.CLS": b"1"}), (13, 6)),
    "webp": Row(more(lambda image: {"a.webp": webp(image), "a.cls": b"1"}), (13, 6)),
    "hidden members": Row(
        more(
            lambda image: {
                "._a.jpg": b"x",
                "a.jpg": image,
                "a.cls": b"1",
                ".DS_Store": b"",
                "README": b"r",
                "R.md": b"r",
            }
        ),
        (13, 6),
        "not used: 2 hidden, 1 without suffix, 1 .md",
    ),
    "no label": Row(more(lambda image: {"a.jpg": image}), "sample 'a' has no label"),
    "labels from 1": Row(labels_from_one, "training labels are 1 to 3.*subtract 1"),
    "a negative label": Row(more(lambda image: {"a.jpg": image, "a.cls": b"-1"}), "a has label -1"),
    "a label beyond all": Row(
        more(lambda image: {"a.jpg": image, "a.cls": b"1000000000000"}), "has label 1000000000000"
    ),
    "a gap": Row(more(lambda image: {"a.jpg": image, "a.cls": b"5"}), r"no training image has label 3 \(2 such"),
    "a gap that is meant": Row(
        more(lambda image: {"a.jpg": image, "a.cls": b"5"}), (13, 6), "2 of 6 classes have no image", {"num_classes": 6}
    ),
    "flat": Row(flat_shards, (12, 6)),
    "subfolders": Row(in_subfolders, (12, 6)),
    "brace list": Row(brace_list, (10, 6)),
    "list of shards": Row(shard_list, (12, 6)),
    "no split in the name": Row(unnamed, "says neither train nor val"),
    "no split in the name, a share": Row(unnamed, (12, 0), "", {"holdout": 0.25}),
    "URL": Row(lambda shards: "https://example.org/{000..004}.tar", "allowed: a place in the file system"),
    "open brace": Row(lambda shards: f"{shards}/{{000..004.tar", "braces that match"),
    "endless brace list": Row(lambda shards: f"{shards}/{{0..99999999}}.tar", "a list of 100,000,000"),
    "nowhere": Row(lambda shards: shards / "nowhere", "there is no folder"),
    "compressed": Row(compressed, r"0\.tar\.gz is compressed; unpack it"),
    "compressed, named .tar": Row(gzip_named_tar, "is not a whole, uncompressed tar shard .it is compressed"),
    "tar of tars": Row(tar_of_tars, "hold no samples"),
}


@pytest.mark.parametrize("layout", SHARDS)
def test_shards(shards: Path, layout: str):
    check(layout, SHARDS[layout], "webdataset", shards)


def arrays(**changes: Any) -> Callable[[Path], Path]:
    def make(place: Path) -> Path:
        random = np.random.default_rng(0)
        content: dict[str, Any] = {
            "train_images": random.integers(0, 256, (12, 8, 10, 3), dtype=np.uint8),
            "train_labels": np.arange(12) % 3,
            "test_images": random.integers(0, 256, (6, 8, 10, 3), dtype=np.uint8),
            "test_labels": np.arange(6) % 3,
        }
        content.update({name: value(content) if callable(value) else value for name, value in changes.items()})
        np.savez(place / "a.npz", **{name: value for name, value in content.items() if value is not None})
        return place / "a.npz"

    return make


def channels_first(name: str) -> Callable[[dict[str, Any]], np.ndarray]:
    return lambda content: np.ascontiguousarray(content[name].transpose(0, 3, 1, 2))


def one_array(place: Path) -> Path:
    np.save(place / "a.npy", np.zeros((3, 2, 2), np.uint8))
    return place / "a.npy"


KERAS = dict.fromkeys(("train_images", "train_labels", "test_images", "test_labels")) | {
    "x_train": np.zeros((4, 8, 8), np.uint8),
    "y_train": np.array([0, 1, 0, 1]),
    "x_test": np.zeros((2, 8, 8), np.uint8),
    "y_test": np.array([1, 0]),
}
ARRAYS = {
    "as they are": Row(arrays(), (12, 6)),
    "channels first": Row(
        arrays(train_images=channels_first("train_images"), test_images=channels_first("test_images")),
        (12, 6),
        "train: images are [N, C, H, W] in the file",
    ),
    "0 and 1": Row(
        arrays(train_images=np.ones((12, 8, 8), np.uint8), test_images=np.ones((6, 8, 8), np.uint8)), "no value above 1"
    ),
    "labels from 1": Row(arrays(train_labels=np.arange(12) % 3 + 1, test_labels=np.arange(6) % 3 + 1), "subtract 1"),
    "labels from 1, recipe's number": Row(
        arrays(train_labels=np.arange(12) % 3 + 1, test_labels=np.arange(6) % 3 + 1),
        "subtract 1",
        options={"num_classes": 1000},
    ),
    "sparse labels": Row(arrays(train_labels=np.arange(12) % 3 * 4), "no training image has label 1"),
    "classes that train lacks": Row(arrays(test_labels=np.arange(6)), r"no training image has label 3 \(3 such"),
    "labels as a column": Row(
        arrays(train_labels=np.arange(12)[:, None] % 3, test_labels=np.arange(6)[:, None] % 3), (12, 6)
    ),
    "one-hot labels": Row(
        arrays(train_labels=np.eye(3, dtype=int)[np.arange(12) % 3]), r"train_labels is int64 \[12, 3\]"
    ),
    "MedMNIST": Row(arrays(val_images=np.zeros((3, 8, 10, 3), np.uint8), val_labels=np.arange(3)[:, None]), (12, 6)),
    "val without labels": Row(
        arrays(val_images=np.zeros((3, 8, 10, 3), np.uint8)), "only one of val_images and val_labels"
    ),
    "Keras": Row(arrays(**KERAS), (4, 2)),
    "two spellings": Row(arrays(x_train=np.zeros((12, 8, 8), np.uint8)), "holds both train_images and x_train"),
    "sizes differ": Row(
        arrays(test_images=np.zeros((6, 9, 9, 3), np.uint8)), r"test_images has pictures of \[9, 9, 3\]"
    ),
    ".npy": Row(one_array, r"is one array \(\.npy\)"),
}


@pytest.mark.parametrize("layout", ARRAYS)
def test_arrays(tmp_path: Path, layout: str):
    splits = check(layout, ARRAYS[layout], "npz", tmp_path)
    if layout == "channels first":
        assert splits.train.images.shape == (12, 8, 10, 3)
    if layout == "MedMNIST":
        assert splits.selection.labels.tolist() == [0, 1, 2]


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arrays()(tmp_path)
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("$PLACE/a.npz", "${PLACE}/a.npz", "~/a.npz"):
        assert build_data("npz", path=path, batch_size=4).train.num_samples == 12
    with pytest.raises(ValueError, match=r"data\.path: got '\$NOT_SET/a\.npz', in which a \$NAME is not set"):
        build_data("npz", path="$NOT_SET/a.npz", batch_size=4)
    with pytest.raises(ValueError, match=r"data\.path: got .*holds no NUL"):
        build_data("npz", path="a\0b", batch_size=4)


ODD_FILES = {
    "palette": lambda image: (image.convert("P"), "PNG"),
    "palette with transparency": lambda image: (image.convert("P"), "PNG", {"transparency": 3}),
    "grey and alpha": lambda image: (image.convert("LA"), "PNG"),
    "1 bit": lambda image: (image.convert("1"), "PNG"),
    "progressive": lambda image: (image, "JPEG", {"progressive": True}),
    "4:1:1": lambda image: (image, "JPEG", {"subsampling": "4:1:1"}),
    "restart markers": lambda image: (image, "JPEG", {"restart_marker_blocks": 1}),
    "webp": lambda image: (image, "WEBP"),
    "bmp": lambda image: (image, "BMP"),
    "tiff, compressed": lambda image: (image, "TIFF", {"compression": "tiff_lzw"}),
    "ppm": lambda image: (image, "PPM"),
    "gif": lambda image: (image, "GIF"),
}


def test_odd_files_look_as_pil_shows_them(tree: Path):
    """All of them in one held-out class, each at its own size, decoded and not resized."""
    for path in (tree / "val/class_0").iterdir():
        path.unlink()
    image = picture(tree).resize((40, 40))
    for number, change in enumerate(ODD_FILES.values()):
        changed, kind, *options = change(image)
        changed.resize((40, 40)).save(tree / f"val/class_0/{number:02d}.jpg", kind, **(options or [{}])[0])
    options = {"image_size": 40, "eval_resize": 40, "index": "off"}
    data = build_data("image_folder", path=str(tree), batch_size=4, eval_batch_size=20, **options)
    shown = next(data.test.epoch(0)).images[: len(ODD_FILES)].permute(0, 2, 3, 1).numpy()
    for number, name in enumerate(ODD_FILES):
        theirs = np.asarray(Image.open(tree / f"val/class_0/{number:02d}.jpg").convert("RGB"))
        assert np.array_equal(shown[number], theirs), name


def test_a_manifest_of_what_was_left_aside_names_every_file(tree: Path):
    clutter(tree)
    (tree / "train/class_2/bad.jpg").write_bytes(b"")
    splits = read("image_folder", tree, bad_images="skip")
    assert splits.unused["train"]["bad"] == [f"{tree}/train/class_2/bad.jpg: empty"]
    names = [name for names in splits.unused["train"].values() for name in names]
    assert json.loads(json.dumps(names)) == names
    assert {"class_0/notes.txt", "class_0/._0001.jpg", "class_1/@eaDir", "__MACOSX"} <= set(names)
