"""CIFAR's official archives and .npz files: read right, and without executing anything in them."""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from act_engine.data import build_data

FILES = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"], "labels"),
    "cifar100": ("cifar-100-python", ["train", "test"], "fine_labels"),
}


class Python2Pickler(pickle._Pickler):
    """Spells text and bytes alike as Python 2's str, as the official files do."""

    def save_str(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, str: save_str, bytes: save_str}  # noqa: RUF012


def official_pickle(batch: dict) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(batch)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def labels(number: int) -> list[int]:
    return [label % 10 for label in range(number, 12)] + [1] * number


def write_official(root: Path, name: str) -> np.ndarray:
    """Write `name`'s folder with 12 random images a file, the layout and pickles of the official one; return them."""
    folder, files, key = FILES[name]
    (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (len(files), 12, 3072), dtype=np.uint8)
    for number, file in enumerate(files):
        batch = {"data": pixels[number], key: labels(number), "batch_label": file}
        (root / folder / file).write_bytes(official_pickle(batch))
    return pixels.reshape(len(files), 12, 3, 32, 32)


def pack(root: Path, name: str) -> Path:
    folder = FILES[name][0]
    archive = root / {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}[name]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / folder, folder)
    return archive


@pytest.mark.parametrize("place", ["root", "folder", "archive", "root of archive"])
@pytest.mark.parametrize("name", FILES)
def test_official_archives(tmp_path: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # arrays need no decoder
    pixels = write_official(tmp_path / "there", name)
    root = tmp_path / "there"
    if "archive" in place:
        archive = pack(root, name)
        root = tmp_path / "elsewhere"
        root.mkdir()
        archive = archive.rename(root / archive.name)
    path = {"root": root, "folder": root / FILES[name][0], "root of archive": root}.get(place) or archive
    data = build_data(name, path=str(path), batch_size=6, eval_batch_size=12, augment="none")
    assert data.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    assert data.image_shape == (3, 32, 32)
    assert data.train.num_samples == 12 * (len(pixels) - 1)
    images, found = next(data.test.epoch(0))
    assert images.dtype == torch.uint8
    assert torch.equal(images, torch.from_numpy(pixels[-1]))
    assert found.tolist() == labels(len(pixels) - 1)


def test_cifar_is_augmented_by_default(tmp_path: Path):
    write_official(tmp_path, "cifar10")
    plain, augmented = (
        next(build_data("cifar10", path=str(tmp_path), batch_size=50, augment=augment).train.epoch(0))
        for augment in ("none", None)
    )
    assert torch.equal(plain.labels, augmented.labels)
    changed = (plain.images != augmented.images).flatten(1).any(1)
    assert changed.sum() > 40


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm-was-done"),))


def test_nothing_in_an_archive_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_official(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"data": Harmful()}, 2))
    with pytest.raises(ValueError, match=r"data\.path: the archive holds a .*; the official one holds plain arrays"):
        build_data("cifar10", path=str(tmp_path), batch_size=6)
    assert not (tmp_path / "harm-was-done").exists()


def test_archives_that_cannot_be(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data\.path: got None; cifar10 needs"):
        build_data("cifar10", batch_size=1)
    with pytest.raises(FileNotFoundError, match=r"data\.path: there is no .*nowhere.*--data\.download"):
        build_data("cifar10", path=str(tmp_path / "nowhere"), batch_size=1)
    with pytest.raises(FileNotFoundError, match=r"holds neither cifar-10-batches-py/ nor"):
        build_data("cifar10", path=str(tmp_path), batch_size=1)
    write_official(tmp_path, "cifar10")
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"data\.path: data_batch_3 of the archive is damaged \(EOFError"):
        build_data("cifar10", path=str(tmp_path), batch_size=1)
    batch.write_bytes(official_pickle({"fine_labels": []}))
    with pytest.raises(ValueError, match=r"data\.path: data_batch_3 of the archive is no batch of images"):
        build_data("cifar10", path=str(tmp_path), batch_size=1)
    batch.unlink()
    with pytest.raises(ValueError, match=r"data\.path: the cifar10 archive has no data_batch_3"):
        build_data("cifar10", path=str(tmp_path), batch_size=1)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is not a whole tar archive"):
        build_data("cifar10", path=str(tmp_path / "cifar-10-python.tar.gz"), batch_size=1)


def test_download_is_torchvisions_and_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def fetch(root: str, download: bool) -> None:
        asked.append(root)
        write_official(Path(root), "cifar10")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fetch)
    data = build_data("cifar10", path=str(tmp_path), batch_size=6, download=True)
    assert asked == [str(tmp_path)]
    assert data.train.num_samples == 60
    build_data("cifar10", path=str(tmp_path), batch_size=6)
    assert len(asked) == 1


def test_a_download_without_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fetch(root: str, download: bool) -> None:
        raise URLError(OSError(-3, "Temporary failure in name resolution"))

    monkeypatch.setattr("torchvision.datasets.CIFAR100", fetch)
    words = r"data\.download: cifar100 could not be fetched .*name resolution.*; without a network put cifar-100-python"
    with pytest.raises(ValueError, match=words):
        build_data("cifar100", path=str(tmp_path), batch_size=6, download=True)


def write_npz(path: Path, **changes) -> Path:
    random = np.random.default_rng(0)
    arrays = {
        "train_images": random.integers(0, 256, (20, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(20) % 4,
        "test_images": random.integers(0, 256, (7, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(7, dtype=np.int32) % 4,
    }
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_npz(tmp_path: Path):
    path = write_npz(tmp_path / "a.npz")
    data = build_data("npz", path=str(path), batch_size=4, eval_batch_size=7)
    assert (data.num_classes, data.image_shape, len(data.train)) == (4, (3, 6, 5), 5)
    images, labels = next(data.test.epoch(0))
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.load(path)["test_images"])
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2]


def test_npz_grey_floats(tmp_path: Path):
    images = np.random.default_rng(0).random((20, 6, 5))
    path = write_npz(tmp_path / "a.npz", train_images=images, test_images=images[:7])
    data = build_data("npz", path=str(path), batch_size=4)
    assert data.image_shape == (1, 6, 5)
    assert next(data.train.epoch(0)).images.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "has no array 'test_labels'; it needs train_images, train_labels"),
        ({"train_images": np.zeros((20, 5), np.uint8)}, r"train_images has shape \[20, 5\]"),
        (
            {"train_images": np.full((20, 5, 5), 255.0)},
            r"train_images is float64 outside \[0, 1\]; it must be uint8, or floats in \[0, 1\]",
        ),
        ({"train_images": np.full((20, 5, 5), np.nan)}, r"train_images is float64 outside \[0, 1\]"),
        ({"train_labels": np.arange(19)}, r"train_labels is int64 \[19\]; .* one for each of the 20 images"),
        ({"train_labels": np.arange(20) - 1}, "image 0 of .*train_images has label -1"),
        ({"train_labels": np.zeros(20)}, "train_labels is float64"),
        ({"train_labels": np.array([Harmful()] * 20)}, "is not an .npz file of plain arrays"),
    ],
)
def test_npz_that_cannot_be(tmp_path: Path, changes: dict, message: str):
    path = write_npz(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=rf"data\.path: .*{message}"):
        build_data("npz", path=str(path), batch_size=4)


def test_labels_below_num_classes(tmp_path: Path):
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"model\.num_classes: got 3, but image 3 of .*train_images has label 3"):
        build_data("npz", path=str(path), batch_size=4, num_classes=3)
    with pytest.raises(FileNotFoundError, match=r"data\.path: there is no file .*b\.npz"):
        build_data("npz", path=str(tmp_path / "b.npz"), batch_size=4)
    (tmp_path / "b.npz").write_bytes(io.BytesIO(b"text").getvalue())
    with pytest.raises(ValueError, match=r"data\.path: .*b\.npz is not an \.npz file"):
        build_data("npz", path=str(tmp_path / "b.npz"), batch_size=4)
