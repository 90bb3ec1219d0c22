"""Image files that are not what they should be: each has a defined outcome, shown with real files."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from act_engine.data import build_data
from act_engine.data.image_folder import list_class_folders
from act_engine.data.sample_tree import tree_to_shards, write_tree
from act_engine.data.webdataset import list_shards


@pytest.fixture
def tree(image_tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree that a test may spoil."""
    return Path(shutil.copytree(image_tree, tmp_path / "tree"))


def build(path: Path, name: str = "image_folder", **options):
    return build_data(name, path=str(path), batch_size=4, image_size=32, index="off", **options)


def truncated(picture: Path) -> bytes:
    return picture.read_bytes()[: picture.stat().st_size // 2]


BAD = {
    "truncated JPEG": (truncated, "a truncated JPEG"),
    "JPEG cut in its header": (lambda picture: picture.read_bytes()[:30], "a JPEG that ends within its header"),
    "text": (lambda picture: b"not a picture\n", "neither a JPEG nor a PNG, nor another kind"),
    "empty": (lambda picture: b"", "empty"),
    "truncated PNG": (lambda picture: as_png(picture)[:-30], "a truncated PNG"),
    "JPEG of no pixels": (lambda picture: with_height(picture, 0), "its header says 0x"),
}


def as_png(picture: Path) -> bytes:
    file = io.BytesIO()
    Image.open(picture).save(file, "PNG")
    return file.getvalue()


def with_height(picture: Path, height: int) -> bytes:
    content = bytearray(picture.read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 7] = height.to_bytes(2, "big")
    return bytes(content)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_is_named_or_left_out(tree: Path, kind: str):
    spoil, problem = BAD[kind]
    picture = tree / "train" / "class_1" / "0004.jpg"
    picture.write_bytes(spoil(picture))
    with pytest.raises(
        ValueError, match=rf"data\.path: .*class_1/0004\.jpg: {problem}.*1 bad image.*--data\.bad_images"
    ):
        build(tree)
    data = build(tree, bad_images="skip")
    assert data.bad_images == 1
    assert data.train.num_samples == 43
    assert str(picture) not in data.train.files.names
    assert sum(len(batch.labels) for batch in data.train.epoch(0)) == 40


def test_bad_images_are_reported(tree: Path, caplog: pytest.LogCaptureFixture):
    for name in ("0001.jpg", "0002.jpg"):
        (tree / "val" / "class_0" / name).write_bytes(b"text")
    assert build(tree, bad_images="skip").bad_images == 2
    assert "left out 2 image(s)" in caplog.text
    assert "class_0/0001.jpg: neither a JPEG nor a PNG" in caplog.text


def test_a_bad_image_in_a_shard_is_named(tree: Path, tmp_path: Path):
    shards = tree_to_shards(tree, tmp_path / "shards", samples_per_shard=9)
    picture = tree / "train" / "class_0" / "0003.jpg"
    shard(shards / "train" / "more.tar", {"bad.jpg": truncated(picture), "bad.cls": b"1"})
    with pytest.raises(ValueError, match=r"data\.path: .*more\.tar: bad: a truncated JPEG"):
        build(shards, "webdataset")
    assert build(shards, "webdataset", bad_images="skip").train.num_samples == 44


def damaged_png(picture: Path) -> bytes:
    """Zeros within the pixels: head and tail say nothing of it."""
    content = as_png(picture)
    start = content.index(b"IDAT") + 4
    return content[:start] + b"\0" * 200 + content[start + 200 :]


def bad_huffman_table(picture: Path) -> bytes:
    content = bytearray(picture.read_bytes())
    table = content.index(b"\xff\xc4") + 5
    content[table : table + 16] = bytes([255] * 16)
    return bytes(content)


@pytest.mark.parametrize("spoil", [damaged_png, bad_huffman_table])
def test_damage_that_only_decoding_finds_names_the_file(tree: Path, spoil):
    picture = tree / "val" / "class_1" / "0001.jpg"
    picture.write_bytes(spoil(picture))
    data = build(tree)
    with pytest.raises(ValueError, match=r"data\.path: .*val/class_1/0001\.jpg: it cannot be decoded.*bad_images skip"):
        list(data.test.epoch(0))


@pytest.mark.parametrize("vanished", [False, True])
def test_damage_found_in_mid_run_is_replaced_when_asked(tree: Path, vanished: bool, caplog: pytest.LogCaptureFixture):
    """The other images stay as they are, and so does the resumed epoch."""
    whole = [batch.images for batch in build(tree).train.epoch(0)]
    data = build(tree, bad_images="skip")
    picture = Path(data.train.files.name(int(data.train.positions(0)[9])))
    if vanished:
        picture.unlink()
    else:
        picture.write_bytes(damaged_png(picture))
        data = build(tree, bad_images="skip")
    batches = list(data.train.epoch(0))
    assert f"{picture.parent.name}/{picture.name}" in caplog.text
    assert "1 replaced so far" in caplog.text
    assert list(data.train.replaced) == [str(picture)]
    for step, (shown, before) in enumerate(zip(batches, whole, strict=True)):
        same = (shown.images == before).flatten(1).all(1)
        assert same.tolist() == [(step, row) != (2, 1) for row in range(4)]
    resumed = build(tree, bad_images="skip").train if not vanished else data.train
    resumed.load_state_dict({**resumed.state_dict(), "epoch": 0, "step": 2})
    assert torch.equal(next(resumed.epoch(0)).images, batches[2].images)


def test_what_dali_cannot_decode_and_pil_can_has_pils_pixels(tree: Path):
    """A PNG with a wrong checksum in a chunk of text, which PIL passes over."""
    path = tree / "val" / "class_0" / "0000.jpg"
    content = as_png(path)
    chunk = b"tEXt" + b"note\0wrong"
    path.write_bytes(content[:33] + len(chunk[4:]).to_bytes(4, "big") + chunk + b"\0\0\0\0" + content[33:])
    shown = next(build(tree, eval_resize=32).test.epoch(0)).images[0]
    path.write_bytes(content)
    assert torch.equal(shown, next(build(tree, eval_resize=32).test.epoch(0)).images[0])


def greyscale(picture: Image.Image) -> tuple[Image.Image, str]:
    return picture.convert("L"), "JPEG"


def cmyk(picture: Image.Image) -> tuple[Image.Image, str]:
    return picture.convert("CMYK"), "JPEG"


def one_pixel(picture: Image.Image) -> tuple[Image.Image, str]:
    return picture.resize((1, 1)), "JPEG"


def png_named_jpg(picture: Image.Image) -> tuple[Image.Image, str]:
    return picture, "PNG"


def transparent(picture: Image.Image) -> tuple[Image.Image, str]:
    return picture.convert("RGBA"), "PNG"


@pytest.mark.parametrize("change", [greyscale, cmyk, one_pixel, png_named_jpg, transparent])
def test_unusual_images_are_read_as_pil_reads_them(tree: Path, change):
    path = tree / "val" / "class_0" / "0000.jpg"
    picture, kind = change(Image.open(path))
    picture.save(path, kind)
    data = build(tree, eval_resize=32)
    shown = next(data.test.epoch(0)).images[0].permute(1, 2, 0).numpy().astype(int)
    width, height = picture.size
    scale = 32 / min(width, height)
    resized = (
        Image.open(path).convert("RGB").resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    )
    left, top = round((resized.width - 32) / 2), round((resized.height - 32) / 2)
    expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).astype(int)
    assert np.abs(shown - expected).mean() < 1.5
    assert sum(len(batch.labels) for batch in data.train.epoch(0)) == 44


def test_bytes_after_the_end_and_long_headers_are_no_fault(tree: Path):
    picture = tree / "train" / "class_0" / "0000.jpg"
    content = picture.read_bytes()
    comment = b"\xff\xfe" + (60_002).to_bytes(2, "big") + b"\xff\xd9" * 30_000
    picture.write_bytes(content[:2] + comment + content[2:] + b"trailing bytes of a careless tool")
    (tree / "train" / "class_0" / "0001.jpg").write_bytes((content[:2] + comment + content[2:])[:-200])
    with pytest.raises(ValueError, match=r"0001\.jpg: a truncated JPEG.*1 bad image"):
        build(tree)
    assert build(tree, bad_images="skip").train.num_samples == 43


def test_exif_orientation_is_left_alone_as_torchvision_does(tree: Path):
    path = tree / "val" / "class_0" / "0000.jpg"
    plain = next(build(tree).test.epoch(0)).images[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    content, segment = path.read_bytes(), exif.tobytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:])
    assert Image.open(path).getexif()[0x0112] == 6
    assert torch.equal(next(build(tree).test.epoch(0)).images[0], plain)


def test_folders_that_cannot_be(tree: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"data\.path: there is no folder .*nowhere"):
        build(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"data\.path: got None; image_folder needs the folder"):
        build_data("image_folder", batch_size=1)
    shutil.move(tree / "val", tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"has no folder val/"):
        build(tree)


def test_an_empty_class_folder(tree: Path):
    (tree / "train" / "class_9").mkdir()
    with pytest.raises(ValueError, match=r"data\.path: the class folder .*class_9 holds no image"):
        build(tree)


def test_splits_with_different_classes(tree: Path):
    shutil.rmtree(tree / "val" / "class_2")
    with pytest.raises(ValueError, match=r"val lacks the class folder 'class_2' \(1 in all\)"):
        build(tree)
    shutil.copytree(tree / "val" / "class_0", tree / "val" / "class_2")
    shutil.copytree(tree / "val" / "class_0", tree / "val" / "class_7")
    with pytest.raises(ValueError, match=r"val has, and train/ lacks, the class folder 'class_7'"):
        build(tree)


def test_a_class_of_bad_images_only(tree: Path):
    for picture in (tree / "train" / "class_3").iterdir():
        picture.write_bytes(b"text")
    with pytest.raises(ValueError, match="every image of the class 'class_3' is bad"):
        build(tree, bad_images="skip")


def test_more_ranks_than_images(tree: Path):
    with pytest.raises(
        ValueError, match=r"data\.batch_size: 1 on each of 64 process.* more than the 44 training images"
    ):
        build_data("image_folder", path=str(tree), batch_size=1, image_size=32, rank=0, world_size=64)


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_shards_that_cannot_be(tmp_path: Path, image_tree: Path):
    picture = (image_tree / "train" / "class_0" / "0000.jpg").read_bytes()
    path = tmp_path / "0.tar"
    shard(path, {"a.jpg": picture, "a.cls": b"0", "b.jpg": picture})
    with pytest.raises(ValueError, match=r"0\.tar: sample 'b' has no label"):
        list_shards(tmp_path, ["0.tar"])
    shard(path, {"a.cls": b"0"})
    with pytest.raises(ValueError, match=r"0\.tar: sample 'a' has no image"):
        list_shards(tmp_path, ["0.tar"])
    shard(path, {"a.jpg": picture, "a.cls": b"cat"})
    with pytest.raises(ValueError, match=r"0\.tar: a\.cls holds b'cat'; a label is one whole number"):
        list_shards(tmp_path, ["0.tar"])
    shard(path, {"a.jpg": picture, "a.cls": b"0"}, mode="w:gz")
    with pytest.raises(ValueError, match=r"0\.tar is not a whole, uncompressed tar shard"):
        list_shards(tmp_path, ["0.tar"])
    whole = shard(path, {"a.jpg": picture, "a.cls": b"0", "b.jpg": picture, "b.cls": b"0"}).read_bytes()
    path.write_bytes(whole[: len(picture) + 2500])
    with pytest.raises(ValueError, match=r"0\.tar"):
        list_shards(tmp_path, ["0.tar"])


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "a/", "long" * 30 + "/", "bär/", "l" * 90 + "/" + "m" * 60 + "/"])
def test_shards_of_every_tar_format(tmp_path: Path, image_tree: Path, tar_format: int, folder: str):
    picture = (image_tree / "train" / "class_0" / "0000.jpg").read_bytes()
    contents = [picture[:2] + b"\xff\xfe\x00\x03" + bytes([number]) + picture[2:] for number in range(3)]
    with tarfile.open(tmp_path / "0.tar", "w", format=tar_format) as archive:
        directory = tarfile.TarInfo("a")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for number, content in enumerate(contents):
            for name, part in ((f"{folder}{number}.jpg", content), (f"{folder}{number}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    files = list_shards(tmp_path, ["0.tar"]).files
    assert [name.split(": ")[1] for name in files.names] == [f"{folder}{number}" for number in range(3)]
    assert [files.read(number) for number in range(3)] == contents
    assert files.labels.tolist() == [7, 7, 7]


def test_labels_in_shards_below_num_classes(tmp_path: Path, image_tree: Path):
    picture = (image_tree / "train" / "class_0" / "0000.jpg").read_bytes()
    for split, label in (("train", b"1"), ("val", b"2")):
        shard(tmp_path / split / "0.tar", {"x/a.jpg": picture, "x/a.cls": b"0", "x/b.jpg": picture, "x/b.cls": label})
    with pytest.raises(ValueError, match=r"model\.num_classes: got 2, but .*val/0\.tar: x/b has label 2"):
        build_data("webdataset", path=str(tmp_path), batch_size=1, num_classes=2)
    assert build_data("webdataset", path=str(tmp_path), batch_size=1, num_classes=3).num_classes == 3


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Permissions do not count for root: become another user for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def open_tree(image_tree: Path) -> Iterator[Path]:
    """A copy of the tree that every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(image_tree, Path(folder, "tree")))
        for place in (tree, tree.parent):
            place.chmod(0o755)
        yield tree


@pytest.mark.parametrize("locked", ["train/class_1/0002.jpg", "train/class_1"])
def test_no_permission(open_tree: Path, request: pytest.FixtureRequest, locked: str):
    (open_tree / locked).chmod(0)
    request.getfixturevalue("as_nobody")
    with pytest.raises(ValueError, match=rf"data\.path: no permission to read .*{locked}; change its mode"):
        list_class_folders(open_tree / "train", 1)


def test_a_file_is_opened_once_and_only_its_ends_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The listing must stay cheap on a million images: opens, reads and their bytes are counted."""
    write_tree(tmp_path, classes=2, train=3, test=1, size=400)
    opened, asked = [], []
    monkeypatch.setattr(os, "open", lambda path, mode, open=os.open: opened.append(str(path)) or open(path, mode))
    monkeypatch.setattr(os, "pread", lambda fd, count, at, pread=os.pread: asked.append(count) or pread(fd, count, at))
    files = list_class_folders(tmp_path / "train", 1).files
    assert sorted(opened) == sorted(files.names)
    assert min(files.lengths) > 16_384  # larger than the head that is read
    assert asked == [16_384, 16] * 6


def test_a_png_in_chunks_is_sized(tmp_path: Path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(tmp_path / "a" / "x.PNG")
    files = list_class_folders(tmp_path).files
    assert files.sizes.tolist() == [[5, 9]]
    assert zlib.crc32(files.read(0)) == zlib.crc32((tmp_path / "a" / "x.PNG").read_bytes())
