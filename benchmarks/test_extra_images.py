"""Images a second of a CIFAR-sized feed with extra images from a mapped file, and a copy of as many bytes.

    pytest benchmarks/ --benchmark-only -k extra_images --save-results

Batches of 1,024 images of 32 x 32, 70 % of them extra ones, without crops, which are the device's work. One thread and
`cpu_images_per_second` are what counts: images a second of CPU time, whatever else the machine does.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from act_engine.data.arrays import ArrayLoader
from act_engine.data.extra import open_extra
from act_engine.data.mixture import Mixture

BATCH, BASE, EXTRA, SHARE, ROUNDS = 1024, 50_000, 200_000, 0.7, 5


def test_extra_images(benchmark, bench, tmp_path: Path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (EXTRA, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "extra.npz", image=images, label=random.integers(0, 10, EXTRA))
    extra = open_extra([str(tmp_path / "extra.npz")], shape=(32, 32, 3), num_classes=10)
    own = (images[:BASE].copy(), random.integers(0, 10, BASE))
    loader = ArrayLoader(*own, BATCH, shuffle=True, extra=extra, mixture=Mixture(BASE, EXTRA, SHARE))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    samples: list[float] = []
    busy: list[float] = []
    epochs = iter(range(10**6))

    def one_round():
        begin, used = time.perf_counter(), time.process_time()
        assert sum(len(labels) for _, labels in loader.epoch(next(epochs))) == len(loader) * BATCH
        samples.append(time.perf_counter() - begin)
        busy.append(time.process_time() - used)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    torch.set_num_threads(threads)
    seen, times = len(loader) * BATCH, sorted(samples[1:])
    row = {
        "op": "extra_images",
        "size": f"{BATCH} x 3x32x32, {SHARE:.0%} extra, 1 thread",
        "contender": "extra images from a mapped file",
        "median_us": statistics.median(times) * 1e6,
        "p20_us": times[len(times) // 5] * 1e6,
        "p80_us": times[len(times) * 4 // 5] * 1e6,
        "images_per_second": seen / statistics.median(times),
        "cpu_images_per_second": seen / statistics.median(busy[1:]),
    }
    benchmark.extra_info["extra"] = row
    bench.rows.append(row)
