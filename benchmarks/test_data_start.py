"""What a start costs on 200,000 image files: seconds and system calls a file, with an index and without.

    pytest benchmarks/ --benchmark-only -k data_start --save-results

The files are hard links to a few JPEGs of about ImageNet's size, in 1,000 class folders. torchvision's ImageFolder,
which lists names alone, is beside it. System calls are counted by strace in a run of its own, where it is installed.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from act_engine.data.image_folder import indexed_classes
from act_engine.data.sample_tree import write_tree

CLASSES, FILES, ROUNDS = 1000, 200_000, 3
COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FILES links in CLASSES folders; an inode bears 65,000 of them."""
    few = write_tree(tmp_path_factory.mktemp("originals"), classes=2, train=8, test=1, size=500)
    originals = sorted(few.rglob("*.jpg"))
    root = tmp_path_factory.mktemp("many")
    for number in range(CLASSES):
        folder = root / f"n{number:08d}"
        folder.mkdir()
        for file in range(FILES // CLASSES):
            os.link(originals[file % len(originals)], folder / f"n{number:08d}_{file}.JPEG")
    yield root
    shutil.rmtree(root)


def system_calls(tree: Path, index: Path | str, baseline: bool = False) -> int | None:
    """System calls of a start in a process of its own; None without strace."""
    if shutil.which("strace") is None:
        return None
    listing = "" if baseline else f"indexed_classes(Path({str(tree)!r}), 2, {str(index)!r})"
    code = f"from pathlib import Path\nfrom act_engine.data.image_folder import indexed_classes\n{listing}"
    command = ["strace", "-f", "-c", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = filter(None, map(COUNTED.match, done.stderr.splitlines()))
    return sum(int(row.group(1)) for row in rows if row.group(2) != "total")


def test_data_start(benchmark, bench, tree: Path, tmp_path: Path):
    from torchvision.datasets import ImageFolder

    index = tmp_path / "index"

    def first():
        shutil.rmtree(index, ignore_errors=True)
        indexed_classes(tree, 2, str(index))

    starts = {
        "torchvision (names alone)": lambda: ImageFolder(str(tree)),
        "without index": lambda: indexed_classes(tree, 2, "off"),
        "first": first,
        "second": lambda: indexed_classes(tree, 2, str(index)),
    }
    samples: dict[str, list[float]] = {name: [] for name in starts}

    def one_round():
        for name, start in starts.items():
            begin = time.perf_counter()
            start()
            samples[name].append(time.perf_counter() - begin)

    benchmark.pedantic(one_round, rounds=ROUNDS)
    calls = {"second": system_calls(tree, index), "without index": system_calls(tree, "off")}
    own = system_calls(tree, "off", baseline=True)
    for name, times in samples.items():
        row = {
            "op": "data_start",
            "size": f"{FILES} files in {CLASSES} folders",
            "contender": name,
            "median_us": statistics.median(times) * 1e6,
            "p20_us": min(times) * 1e6,
            "p80_us": max(times) * 1e6,
        }
        if calls.get(name) is not None:
            row["system_calls_a_file"] = (calls[name] - own) / FILES
        benchmark.extra_info[name] = row
        bench.rows.append(row)
