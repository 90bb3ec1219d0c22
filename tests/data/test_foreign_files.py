"""Files that anybody may have made: whatever their bytes, one line comes out, and no size is believed unseen."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_sources import write_npz, write_official

from act_engine.data.cifar import cifar
from act_engine.data.image_folder import image_folder, list_class_folders
from act_engine.data.npz import npz
from act_engine.data.sample_tree import tree_to_shards, write_tree
from act_engine.data.webdataset import webdataset

EDGES = [
    b"\0",
    b"\xff",
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"9" * 12,
    b"\x80" + b"\xff" * 11,
    b"\n",
    b"(",
    b"'",
]


@st.composite
def mutations(draw: st.DrawFn) -> list[tuple[str, float, float, bytes]]:
    """What is done to a file: kind, two places in [0, 1), and bytes."""
    kinds = st.sampled_from(["flip", "put", "cut", "insert", "repeat", "swap"])
    place = st.floats(0, 1, exclude_max=True)
    return draw(st.lists(st.tuples(kinds, place, place, st.sampled_from(EDGES)), min_size=1, max_size=4))


def mutated(content: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, one, other, put in changes:
        at, to = int(one * len(content)), int(other * len(content))
        first, last = min(at, to), max(at, to)
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << to % 8)]) + content[at + 1 :]
        elif kind == "put":
            content = content[:at] + put + content[at + len(put) :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + put + content[at:]
        elif kind == "repeat":
            content = content[:last] + content[first:last][:4096] + content[last:]
        elif kind == "swap":
            content = content[:first] + content[last:] + content[first:last]
    return content


def as_official(folder: Path) -> Path:
    write_official(folder, "cifar10")
    return folder / "cifar-10-batches-py" / "data_batch_2"


def as_archive(folder: Path) -> Path:
    write_official(folder / "there", "cifar10")
    with tarfile.open(folder / "cifar-10-python.tar", "w") as archive:
        archive.add(folder / "there" / "cifar-10-batches-py", "cifar-10-batches-py")
    return folder / "cifar-10-python.tar"


def as_gzip(folder: Path) -> Path:
    path = as_archive(folder).rename(folder / "cifar-10-python.tar.gz")
    path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def as_npz(folder: Path) -> Path:
    return write_npz(folder / "a.npz")


def as_shard(folder: Path) -> Path:
    write_tree(folder / "tree", classes=2, train=3, test=1, size=24)
    tree_to_shards(folder / "tree", folder / "shards")
    return folder / "shards/train/000000.tar"


def as_image(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tree = write_tree(folder / "tree", classes=2, train=2, test=1, size=24)
        path = tree / "train/class_0/0000.jpg"
        Image.open(path).save(path, kind)
        return path

    return make


def as_list(folder: Path) -> Path:
    tree = write_tree(folder / "tree", classes=2, train=2, test=1, size=24)
    rows = [f"{path.relative_to(tree)},{path.parent.name}\n" for path in sorted(tree.glob("val/*/*.jpg"))]
    (tree / "val").rename(tree / "held")
    (tree / "val.csv").write_text("".join(rows).replace("val/", "held/"))
    return tree / "val.csv"


def read_tree(folder: Path, bad_images: str = "skip") -> object:
    return image_folder(str(folder / "tree"), 1, bad_images, index="off")


PARSERS = {
    "CIFAR's pickles": (as_official, lambda folder: cifar("cifar10", str(folder), False, 1, "error")),
    "CIFAR's archive": (
        as_archive,
        lambda folder: cifar("cifar10", str(folder / "cifar-10-python.tar"), False, 1, "error"),
    ),
    "CIFAR's archive, packed": (as_gzip, lambda folder: cifar("cifar10", str(folder), False, 1, "error")),
    ".npz": (as_npz, lambda folder: npz(str(folder / "a.npz"))),
    "tar shards": (as_shard, lambda folder: webdataset(str(folder / "shards"), 1, "skip", index="off")),
    **{kind: (as_image(kind), read_tree) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM")},
    "lists": (as_list, read_tree),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of strange tags
@pytest.mark.parametrize("kind", PARSERS)
def test_only_one_line_comes_out_of_a_parser(kind: str, tmp_path: Path):
    make, parse = PARSERS[kind]
    file = make(tmp_path)
    content = file.read_bytes()
    parse(tmp_path)  # as it is, it can be read

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(mutations())
    def run(changes: list[tuple[str, float, float, bytes]]) -> None:
        file.write_bytes(mutated(content, changes))
        said = ["data."]
        try:
            parse(tmp_path)
        except (ValueError, FileNotFoundError) as error:
            said = str(error).splitlines()
        assert len(said) == 1
        assert said[0].startswith(("data.", "model."))
        assert len(said[0]) < 600

    run()


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def array_state(dtype: bytes, content: bytes, shape: bytes = b"K\x01\x85") -> bytes:
    """The opcodes of an array of one row as NumPy pickles it, with whatever dtype and bytes."""
    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return begin + b"(K\x01" + shape + dtype + b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb"


def dtype(code: bytes) -> bytes:
    return b"cnumpy\ndtype\n(U" + bytes([len(code)]) + code + b"K\x00K\x01tR"


HOSTILE_PICKLES = {
    "a pointer": array_state(dtype(b"O8"), b"A" * 8),
    "a state of its own for the dtype": array_state(
        dtype(b"u1") + b"(K\x03U\x01|NNNJ\xff\xff\xff\x7fJ\xff\xff\xff\x7fK?tb", b"A" * 8
    ),
    "more pixels than bytes": array_state(dtype(b"u1"), b"A" * 8, b"J\xff\xff\xff\x7fM\x00\x0c\x86"),
    "an enormous memo": b"K\x01r\xff\xff\xff\x7f",
    "an enormous text": b"T\xff\xff\xff\x7f" + b"A",
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "nested lists": b"]" * 200_000,
}


@pytest.mark.parametrize("kind", HOSTILE_PICKLES)
def test_hostile_pickles(kind: str, tmp_path: Path):
    write_official(tmp_path, "cifar10")
    labels = b"U\x06labels](K\x01e"
    body = b"}(U\x04data" + HOSTILE_PICKLES[kind] + labels + b"u"
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(pickled(body))
    with pytest.raises(ValueError, match=r"data\.path: test_batch of the archive is (damaged|no batch)"):
        cifar("cifar10", str(tmp_path), False, 1, "error")


def test_numpys_own_constructors_are_never_handed_out():
    """What an official file names comes as a thing that does nothing, whatever it is called with."""
    from act_engine.data.cifar import _Inert, _InertUnpickler

    reader = _InertUnpickler(io.BytesIO())
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
        for name in ("_reconstruct", "ndarray", "dtype"):
            assert reader.find_class(module, name) is _Inert
    for module, name in (
        ("numpy", "load"),
        ("builtins", "eval"),
        ("os", "system"),
        ("numpy.core.multiarray", "scalar"),
    ):
        with pytest.raises(ValueError, match="the official one holds plain arrays only"):
            reader.find_class(module, name)
    assert pickle.Unpickler.find_class is not _InertUnpickler.find_class


BOMBS = textwrap.dedent(
    """
    import resource, sys
    from pathlib import Path
    from act_engine.data.cifar import cifar
    from act_engine.data.npz import npz
    from act_engine.data.image_folder import image_folder
    from act_engine.data.webdataset import webdataset
    from PIL import Image

    Image.init()
    folder = Path(sys.argv[1])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**30  # 1 GiB more than the imports
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for parse in (
        lambda: npz(str(folder / "zeros.npz")),
        lambda: npz(str(folder / "lie.npz")),
        lambda: npz(str(folder / "pipe.npz")),
        lambda: cifar("cifar10", str(folder / "record.tar"), False, 1, "error"),
        lambda: cifar("cifar10", str(folder / "size.tar"), False, 1, "error"),
        lambda: cifar("cifar10", str(folder / "pickle"), False, 1, "error"),
        lambda: webdataset(str(folder / "shards"), 1, "error", index="off"),
        lambda: image_folder(str(folder / "jpeg"), 1, "error", index="off"),
        lambda: image_folder(str(folder / "png"), 1, "error", index="off"),
    ):
        try:
            parse()
            print("read")
        except (ValueError, FileNotFoundError) as error:
            print(error)
    """
)


def header_of(name: str, size: int, kind: bytes = b"0") -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def test_bombs_are_refused_within_a_gibibyte(tmp_path: Path, originals: Path):
    """Each says it is far larger than it is, or would be once it is read."""
    few = {
        "train_labels": np.zeros(2, int),
        "test_images": np.zeros((2, 9, 9), np.uint8),
        "test_labels": np.zeros(2, int),
    }
    zeros = np.zeros((2, 6000, 6000), np.uint8)
    np.savez_compressed(tmp_path / "zeros.npz", train_images=zeros, **few)
    write_npz(tmp_path / "lie.npz")
    content = (tmp_path / "lie.npz").read_bytes()
    lie = content.replace(b"(20, 6, 5, 3), }", b"(2000000000,6,3)}")  # as long
    (tmp_path / "lie.npz").write_bytes(lie)
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "record.tar").write_bytes(header_of("x", 2**32, b"x"))
    (tmp_path / "size.tar").write_bytes(header_of("cifar-10-batches-py/data_batch_1", 2**50))
    write_official(tmp_path / "pickle", "cifar10")
    bomb = pickled(b"}(U\x04data" + HOSTILE_PICKLES["an enormous memo"] + b"u")
    (tmp_path / "pickle/cifar-10-batches-py/test_batch").write_bytes(bomb)
    (tmp_path / "shards/train").mkdir(parents=True)
    (tmp_path / "shards/val").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / f"shards/{split}/0.tar").write_bytes(header_of("a.jpg", 2**50) + b"\0" * 1024)
    for kind in ("jpeg", "png"):
        shutil.copytree(originals, tmp_path / kind)
        path = tmp_path / kind / "train/class_0/0000.jpg"
        Image.new("RGB", (8, 8)).save(path, kind.upper())
        content = bytearray(path.read_bytes())
        at = content.index(b"\xff\xc0") + 5 if kind == "jpeg" else 16
        content[at : at + (4 if kind == "jpeg" else 8)] = b"\x4e\x20" * 2 if kind == "jpeg" else b"\0\0\x4e\x20" * 2
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    expected = [
        "train_images would grow from",
        "is not an .npz file",
        "is no regular file",
        "says it is 4,294,967,296 bytes long",
        "would unpack to more than",
        "test_batch of the archive is no batch of images",
        "is not whole: it ends within a.jpg",
        "its header says 20000x20000 pixels: too many",
        "its header says 20000x20000 pixels: too many",
    ]
    assert len(said) == len(expected)
    for line, words in zip(said, expected, strict=True):
        assert words in line
        assert line.startswith("data.path: ")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"), classes=2, train=2, test=1, size=24)


def test_a_pipe_among_images_is_passed_over(tmp_path: Path, originals: Path):
    tree = Path(shutil.copytree(originals, tmp_path / "tree"))
    os.mkfifo(tree / "train/class_0/pipe.jpg")
    assert list_class_folders(tree / "train").unused == {"no regular file": ["class_0/pipe.jpg"]}
