"""Images a second of the ImageNet training view on the CPU, against torchvision's two ways and DALI alone.

    pytest benchmarks/ --benchmark-only -k data_loading --save-results

Same files, same transform (random resized crop 224, flip, float32 in [0, 1]), same batch, same number of threads or
worker processes. Every round reads one epoch with each in turn; the ratios of `images_per_second` are what counts.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from act_engine.data import build_data
from act_engine.data.sample_tree import tree_to_shards, write_tree

BATCH, IMAGES, WORKERS, SIZE = 64, 1024, 2, 224
ROUNDS = 7


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of about ImageNet's size (375 to 500 pixels a side), 512 to train."""
    return write_tree(tmp_path_factory.mktemp("tree"), classes=2, train=IMAGES // 2, test=16, size=500)


@pytest.fixture(scope="module")
def shards(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree_to_shards(tree, tmp_path_factory.mktemp("shards"), samples_per_shard=128)


def torchvision_epochs(tree: Path) -> Callable[[], int]:
    """torchvision as its users write it, worker processes kept between epochs."""
    view = transforms.Compose(
        [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    loader = DataLoader(
        ImageFolder(str(tree / "train"), view),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    return lambda: sum(len(images) for images, _ in loader)


def cpu_seconds() -> float:
    """CPU time of this process and of its living children so far."""
    us = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (us, *us.children(recursive=True)))


def read_picture(path: str) -> torch.Tensor:
    return decode_image(path, ImageReadMode.RGB)


def torchvision_fast_epochs(tree: Path) -> Callable[[], int]:
    """torchvision at its fastest: libjpeg into uint8 tensors, the second transforms on them, no PIL."""
    view = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])
    loader = DataLoader(
        ImageFolder(str(tree / "train"), view, loader=read_picture),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )
    return lambda: sum(len(images.float().div_(255)) for images, _ in loader)


def dali_epochs(tree: Path) -> Callable[[], int]:
    """DALI as its documentation has it for ImageNet: its own reader, shuffling, random crop and normalisation."""

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def pipeline():
        encoded, labels = fn.readers.file(file_root=str(tree / "train"), random_shuffle=True, name="reader")
        images = fn.decoders.image_random_crop(encoded)
        images = fn.resize(images, size=(SIZE, SIZE), interp_type=types.INTERP_TRIANGULAR)
        mirror = fn.random.coin_flip()
        normalised = fn.crop_mirror_normalize(images, mirror=mirror, std=[255.0] * 3, output_layout="CHW")
        return normalised, labels

    built = pipeline()
    built.build()

    def epoch() -> int:
        return sum(len(torch.from_dlpack(built.run()[0].as_tensor())) for _ in range(IMAGES // BATCH))

    return epoch


def our_epochs(name: str, path: Path) -> Callable[[], int]:
    loader = build_data(name, path=str(path), batch_size=BATCH, image_size=SIZE, workers=WORKERS).train
    epoch = iter(range(10**6))
    return lambda: sum(len(images.float().div_(255)) for images, _ in loader.epoch(next(epoch)))


@pytest.fixture(scope="module")
def correct(tree: Path) -> None:
    """The pictures are torchvision's, before anything is timed."""
    data = build_data("image_folder", path=str(tree), batch_size=BATCH, image_size=SIZE, workers=WORKERS)
    view = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIZE)])
    shown = torch.cat([images for images, _ in data.test.epoch(0)]).permute(0, 2, 3, 1).numpy().astype(int)
    names = data.test.files.names
    expected = np.stack([np.asarray(view(Image.open(name))) for name in names]).astype(int)
    assert np.abs(shown - expected).mean() < 1
    trained = list(data.train.epoch(0))
    assert [batch.images.shape for batch in trained] == [(BATCH, 3, SIZE, SIZE)] * (IMAGES // BATCH)


def test_data_loading(benchmark, bench, tree: Path, shards: Path, correct: None):
    epochs = {
        "torchvision": torchvision_epochs(tree),
        "torchvision, decode_image and uint8": torchvision_fast_epochs(tree),
        "dali alone": dali_epochs(tree),
        "image_folder": our_epochs("image_folder", tree),
        "webdataset": our_epochs("webdataset", shards),
    }
    samples: dict[str, list[float]] = {source: [] for source in epochs}
    busy: dict[str, list[float]] = {source: [] for source in epochs}  # CPU seconds, the worker processes' too

    def one_round():
        for source, epoch in epochs.items():
            begin, used = time.perf_counter(), cpu_seconds()
            assert epoch() == IMAGES
            samples[source].append(time.perf_counter() - begin)
            busy[source].append(cpu_seconds() - used)

    one_round()  # the first epoch starts processes and reads files that no cache holds yet
    for times in (*samples.values(), *busy.values()):
        times.clear()
    benchmark.pedantic(one_round, rounds=ROUNDS)
    reference = statistics.median(samples["torchvision"])
    for source, times in samples.items():
        times.sort()
        row = {
            "op": "data_loading",
            "size": f"{IMAGES} JPEGs to 3x{SIZE}x{SIZE}, {WORKERS} workers",
            "contender": source,
            "median_us": statistics.median(times) * 1e6,
            "p20_us": times[len(times) // 5] * 1e6,
            "p80_us": times[len(times) * 4 // 5] * 1e6,
            "images_per_second": IMAGES / statistics.median(times),
            "times_torchvision": reference / statistics.median(times),
            "cpu_us_an_image": statistics.median(busy[source]) * 1e6 / IMAGES,
        }
        benchmark.extra_info[source] = row
        bench.rows.append(row)
