"""CIFAR-10 and CIFAR-100 from the official archives or from a tree of class folders."""

from __future__ import annotations

import functools
import gzip
import io
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from act_engine.data import tar
from act_engine.data.foreign import BadFile, one_line, parsing
from act_engine.data.registry import Facts, Source
from act_engine.data.splits import Pictures, Splits

PIXELS = (3, 32, 32)
MOST_BYTES = 2**28  # of one file of the archive; the largest official one has 155 million
LAST_BYTE = 2**30  # of the archive, unpacked; the official ones have 180 million


# Of pickles up to protocol 4 that hold plain values and arrays; see pickletools.
OPCODES = b"\x80.(012)]}" + b"BCFGIJKLMNRSTUVX" + b"abcdeghjlpqrstu" + bytes([*range(0x85, 0x8F), 0x93, 0x94, 0x95])


class _Official(NamedTuple):
    folder: str
    archive: str
    files: dict[str, tuple[str, ...]]  # by split
    labels: str
    names: tuple[str, str]  # the file of the class names, and what they are called there
    num_classes: int


OFFICIAL = {
    "cifar10": _Official(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        "labels",
        ("batches.meta", "label_names"),
        10,
    ),
    "cifar100": _Official(
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        {"train": ("train",), "test": ("test",)},
        "fine_labels",
        ("meta", "fine_label_names"),
        100,
    ),
}


def cifar(name: str, path: str | None, download: bool, workers: int, bad_images: str) -> Splits:
    """Return CIFAR-10 or CIFAR-100 (`name`) from `path`.

    `path` is the official python archive, the folder it unpacks to, a folder that holds either (torchvision's root),
    or a tree of class folders train/ and test/. With `download` torchvision fetches the archive into `path` if none of
    these is there.

    Raises:
        FileNotFoundError, ValueError: nothing is there, or it is damaged; one line.
    """
    if path is None:
        raise ValueError(f"data.path: got None; {name} needs the folder or archive it is in")
    root, official = Path(path), OFFICIAL[name]
    found = _find(root, official)
    if found is None and download and not (root / "train").is_dir():
        _download(name, root)
        found = _find(root, official)
    if found is not None:
        contents = _from_folder(found, official) if found.is_dir() else _from_archive(found, official)
        return _splits(name, contents)
    if not root.exists():
        raise FileNotFoundError(f"data.path: there is no {path}; give {name}'s place, or fetch it with --data.download")
    if (root / "train").is_dir():
        return _tree(name, root, workers=workers, bad_images=bad_images)
    raise FileNotFoundError(
        f"data.path: {path} holds neither {official.folder}/ nor {official.archive} nor train/; give {name}'s place, "
        "or fetch it with --data.download"
    )


def _find(root: Path, official: _Official) -> Path | None:
    places = [root] if root.name == official.folder or root.is_file() else []
    places += [root / official.folder, root / official.archive]
    return next(
        (place for place in places if place.exists() and place.is_dir() == (place.name == official.folder)), None
    )


def _wanted(official: _Official) -> list[str]:
    return [*(file for files in official.files.values() for file in files), official.names[0]]


def _from_folder(folder: Path, official: _Official) -> dict[str, bytes]:
    contents = {}
    for name in _wanted(official):
        file = folder / name
        if file.is_file():
            with parsing(file, "cannot be read"), open(file, "rb") as opened:
                contents[name] = _bounded(opened, file.stat().st_size, str(file))
    return contents


def _from_archive(archive: Path, official: _Official) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    wanted = _wanted(official)
    with parsing(archive, "is not a whole tar archive", "; fetch it again"), open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if packed else file as unpacked:
            for member in tar.members(unpacked):
                if member.offset + member.size > LAST_BYTE:
                    raise BadFile(f"data.path: {archive} would unpack to more than {LAST_BYTE:,} bytes; fetch it again")
                name = Path(member.name).name
                if name in wanted and name not in contents:
                    unpacked.seek(member.offset)
                    contents[name] = _bounded(unpacked, member.size, f"{name} of {archive}")
    return contents


def _bounded(file: BinaryIO, size: int, name: str) -> bytes:
    if size > MOST_BYTES:
        raise BadFile(f"data.path: {name} has {size:,} bytes; allowed: {MOST_BYTES:,}; fetch it again")
    return file.read(size)


def _splits(name: str, contents: dict[str, bytes]) -> Splits:
    official = OFFICIAL[name]
    parts = {}
    for split, files in official.files.items():
        batches = []
        for file in files:
            if file not in contents:
                raise ValueError(f"data.path: the {name} archive has no {file}; unpack or fetch it again")
            batches.append(_batch(contents[file], file, official))
        images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        parts[split] = Pictures(np.ascontiguousarray(images), labels)
    return Splits(**parts, num_classes=official.num_classes, classes=_class_names(contents, official))


def _batch(content: bytes, name: str, official: _Official) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 32, 32, 3]` uint8 and labels `[N]` of one of the archive's files."""
    batch = _unpickle(content, name)
    if not isinstance(batch, dict) or not {"data", official.labels} <= batch.keys():
        raise BadFile(
            f"data.path: {name} of the archive is no batch of images ('data', {official.labels!r}); fetch it again"
        )
    with parsing(f"{name} of the archive", "is no batch of images", "; fetch it again"):
        images, labels = batch["data"].array(), batch[official.labels]
        fit = images.ndim == 2 and images.shape[1] == 3072 and isinstance(labels, list) and len(labels) == len(images)
        allowed = range(official.num_classes)
        if not fit or not all(type(label) is int and label in allowed for label in labels):
            raise ValueError(f"it needs rows of 3072 pixels, and for each a label of 0 to {official.num_classes - 1}")
        return images.reshape(-1, *PIXELS).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def _class_names(contents: dict[str, bytes], official: _Official) -> tuple[str, ...] | None:
    file, key = official.names
    meta = _unpickle(contents[file], file) if file in contents else {}
    names = meta.get(key) if isinstance(meta, dict) else None
    if isinstance(names, list) and len(names) == official.num_classes and all(type(name) is str for name in names):
        return tuple(names)
    return None


class _Inert:
    """What stands for NumPy's objects while a pickle is read: it keeps what the pickle says, and does nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The uint8 array that is described; ValueError where it is another thing, or its bytes are not all there."""
        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            raise ValueError("its pixels are no array")
        _, shape, dtype, fortran, content = self.state
        content = content.encode("latin1") if isinstance(content, str) else content
        described = isinstance(dtype, _Inert) and dtype.arguments[:1] in (("u1",), ("|u1",))
        if not described or type(content) is not bytes:
            raise ValueError("its pixels are no uint8 array")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran is True else "C")


class _InertUnpickler(pickle._Unpickler):
    """Reads the official pickles: plain values and descriptions of arrays.

    Nothing that a pickle names is called: NumPy's own constructors would follow sizes and pointers that the file
    chose. The one in Python keeps its memo in a dict, so a memo index does not reserve memory; opcodes beyond those of
    plain values and arrays are unknown to it.
    """

    dispatch = {code: pickle._Unpickler.dispatch[code] for code in OPCODES}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        numpy = module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
        if numpy and name in ("_reconstruct", "ndarray", "dtype"):
            return _Inert
        raise BadFile(
            f"data.path: the archive holds a {one_line(f'{module}.{name}', 60)}; the official one holds plain arrays "
            "only"
        )


def _unpickle(content: bytes, name: str) -> Any:
    with parsing(f"{name} of the archive", "is damaged", "; fetch it again"):
        return _InertUnpickler(io.BytesIO(content), encoding="latin1").load()  # the official pickles are Python 2's


def _download(name: str, root: Path) -> None:
    try:
        from torchvision import datasets
    except ImportError:
        raise ValueError('data.download: needs torchvision: pip install "act-engine[imagenet]"') from None
    try:
        {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name](str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data.download: {name} could not be fetched ({one_line(error)}); without a network put "
            f"{OFFICIAL[name].archive} into {root}"
        ) from None


def _tree(name: str, root: Path, *, workers: int, bad_images: str) -> Splits:
    from act_engine.data.dali import decoded
    from act_engine.data.image_folder import image_folder

    files = image_folder(path=str(root), workers=workers, bad_images=bad_images)
    expected = OFFICIAL[name].num_classes
    if files.num_classes != expected:
        raise ValueError(f"data.path: {root}/train holds {files.num_classes} class folders; {name} has {expected}")
    parts = {}
    for split in ("train", "test", "selection"):
        part = getattr(files, split)
        if part is not None:
            parts[split] = Pictures(decoded(part, image_size=PIXELS[1], workers=workers), part.labels)
    return Splits(
        **parts, num_classes=expected, classes=files.classes, notes=files.notes, bad=files.bad, unused=files.unused
    )


SOURCES = tuple(
    Source(
        name,
        functools.partial(cifar, name),
        Facts(50_000, official.num_classes, PIXELS),
        augmentations=("crop_flip", "none"),
    )
    for name, official in OFFICIAL.items()
)
