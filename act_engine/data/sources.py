"""Data sets as arrays: where the pictures and labels of the in-memory sources come from."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """Images `[N, H, W, C]`, uint8 or float32 in [0, 1], and labels `[N]`, of both splits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int


def digits() -> Arrays:
    """Return scikit-learn's 8x8 handwritten digits as float32 (grey / 16), 1297 to train and 500 to test.

    The split is stratified and fixed, whatever the run's seed, so that accuracies of different runs compare.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=500, stratify=labels, random_state=0
    )
    return Arrays(train_images, train_labels, test_images, test_labels, num_classes=10)


def npz(path: str | None) -> Arrays:
    """Read `train_images`, `train_labels`, `test_images` and `test_labels` of an .npz file.

    Images are `[N, H, W]` or `[N, H, W, C]`, uint8 or floats in [0, 1]; labels are `[N]` integers. Pickled objects in
    the file are refused.
    """
    if path is None or not Path(path).is_file():
        raise FileNotFoundError(f"data.path: there is no file {path}; npz needs the path of an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in Arrays._fields[:4] if name in archive}
    except (ValueError, OSError) as error:
        raise ValueError(f"data.path: {path} is not an .npz file of plain arrays ({error})") from None
    missing = [name for name in Arrays._fields[:4] if name not in parts]
    if missing:
        raise ValueError(f"data.path: {path} has no array {missing[0]!r}; it needs {', '.join(Arrays._fields[:4])}")
    for split in ("train", "test"):
        images, labels = parts[f"{split}_images"], parts[f"{split}_labels"]
        parts[f"{split}_images"] = _checked_images(images, f"{path}: {split}_images")
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(
                f"data.path: {path}: {split}_labels is {labels.dtype} {list(labels.shape)}; it must be integers from 0 "
                f"on, one for each of the {len(images)} images"
            )
    return Arrays(**parts, num_classes=int(max(parts["train_labels"].max(), parts["test_labels"].max())) + 1)


def cifar(name: str, path: str | None, *, download: bool, workers: int, bad_images: str) -> tuple[Arrays, list[str]]:
    """Return CIFAR-10 or CIFAR-100 (`name`) from `path`, and a line about each image left out as bad.

    `path` is the official python archive, the folder it unpacks to, a folder that holds either (torchvision's root),
    or a tree of class folders train/ and test/. With `download` torchvision fetches the archive into `path` first.
    """
    if path is None:
        raise ValueError(f"data.path: not given; {name} needs the folder or archive it is in")
    root = Path(path)
    if download:
        _download(name, root)
    if not root.exists():
        raise FileNotFoundError(f"data.path: there is no {path}; give {name}'s place, or fetch it with --data.download")
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    archive = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[name]
    for place in (root, root / folder, root / archive):
        if place.name == folder and place.is_dir():
            return _official(name, {file.name: file.read_bytes() for file in place.iterdir() if file.is_file()}), []
        if place.is_file():
            return _official(name, _unpacked(place)), []
    if (root / "train").is_dir():
        return _tree(name, root, workers=workers, bad_images=bad_images)
    raise FileNotFoundError(
        f"data.path: {path} holds neither {folder}/ nor {archive} nor train/; give {name}'s place, or fetch it with "
        "--data.download"
    )


class _ArraysOnly(pickle.Unpickler):
    """Reads the official archives' pickles: plain values and numpy arrays, and nothing that could run."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype"})

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy") and name in self.ALLOWED:
            return np._core.multiarray._reconstruct if name == "_reconstruct" else getattr(np, name)
        raise ValueError(f"data.path: the archive holds a {module}.{name}; the official one holds plain arrays only")


def _official(name: str, contents: dict[str, bytes]) -> Arrays:
    if name == "cifar10":
        parts = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
        key, num_classes = "labels", 10
    else:
        parts = {"train": ["train"], "test": ["test"]}
        key, num_classes = "fine_labels", 100
    splits = []
    for files in parts.values():
        images, labels = [], []
        for file in files:
            if file not in contents:
                raise ValueError(f"data.path: the {name} archive has no {file}; unpack or fetch it again")
            batch = _unpickle(contents[file], file, key)
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.asarray(batch[key], np.int64))
        splits += [np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)]
    return Arrays(*splits, num_classes=num_classes)


def _unpickle(content: bytes, name: str, key: str) -> dict[str, Any]:
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()  # the official pickles are Python 2's
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError) as error:
        raise ValueError(f"data.path: {name} of the archive is damaged ({error}); fetch it again") from None
    if not isinstance(batch, dict) or not {"data", key} <= batch.keys():
        raise ValueError(f"data.path: {name} of the archive is no batch of images ('data', {key!r}); fetch it again")
    return batch


def _unpacked(archive: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(archive) as tar:
            return {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"data.path: {archive} is not a whole tar archive ({error}); fetch it again") from None


def _download(name: str, root: Path) -> None:
    try:
        from torchvision import datasets
    except ImportError:
        raise ValueError('data.download: needs torchvision: pip install "act-engine[imagenet]"') from None
    {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name](str(root), download=True)


def _tree(name: str, root: Path, *, workers: int, bad_images: str) -> tuple[Arrays, list[str]]:
    from act_engine.data.dali import decoded
    from act_engine.data.files import checked, class_folders, split_folders

    classes: list[str] | None = None
    splits: list[np.ndarray] = []
    bad: list[str] = []
    for folder in split_folders(str(root), name):
        files, bad_here = checked(class_folders(folder, classes), bad_images=bad_images, threads=workers)
        classes, bad = files.classes, bad + bad_here
        splits += [decoded(files, image_size=32, workers=workers), files.labels]
    expected = {"cifar10": 10, "cifar100": 100}[name]
    if len(classes) != expected:
        raise ValueError(f"data.path: {root}/train holds {len(classes)} class folders; {name} has {expected}")
    return Arrays(*splits, num_classes=expected), bad


def _checked_images(images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim not in (3, 4) or not len(images):
        raise ValueError(f"data.path: {name} has shape {list(images.shape)}; it must be [N, H, W] or [N, H, W, C]")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(images.dtype, np.floating) or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"data.path: {name} is {images.dtype}; it must be uint8, or floats in [0, 1]")
    return np.ascontiguousarray(images, np.float32)
