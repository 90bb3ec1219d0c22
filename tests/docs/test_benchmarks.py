"""The kernels' benchmarks run: their assertions hold, and with --benchmark-disable nothing is timed."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pytest_benchmarks(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-disable", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_small_sizes_run_untimed():
    run = pytest_benchmarks("-k", "(128x10 or 128x3x32x32) and (eager or native)")
    assert run.returncode == 0, run.stdout
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 7  # the losses and steps in eager PyTorch at least


def test_untimed_results_are_not_saved():
    run = pytest_benchmarks("--save-results")
    assert run.returncode != 0
    assert "nothing to save with --benchmark-disable" in run.stderr
