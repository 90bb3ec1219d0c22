"""A short run killed at its file operations, traced, and with a disk that is full for one of its writers.

The default run takes a sample of the operations and sizes; `make faults` takes every one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

HERE = Path(__file__).parent
EVERY = pytest.mark.faults
WARNED = ("checkpoints", "records", "board")
"""What a run may go on without."""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A function that runs the workers with the library preloaded that counts and fails: what they found."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler: file operations are traced by a preloaded library")
    folder = tmp_path_factory.mktemp("file-faults")
    library = folder / "file_faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "file_faults.c", "-ldl"], check=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(library)}

    def work(size: int, what: str, number: int) -> dict:
        output = folder / f"{what}-{size}-{number}"
        command = [sys.executable, str(HERE / "file_faults.py"), str(output), str(size), what, str(number)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-5000:]
        outcome = json.loads((output / "outcomes.json").read_text())
        shutil.rmtree(output)
        return outcome

    return work


@pytest.mark.parametrize(
    ("size", "stride"),
    [(1, 29), pytest.param(1, 1, marks=EVERY), pytest.param(2, 1, marks=EVERY)],
)
def test_killed_at_an_operation_a_run_comes_to_the_same_bytes(work, size, stride):
    outcome = work(size, "kills", stride)
    assert outcome["operations"] > 100
    assert outcome["tried"] == -(-outcome["operations"] // stride)
    assert outcome["differ"] == []


@pytest.mark.parametrize("sizes", [1, pytest.param(10, marks=EVERY)])
def test_full_disk_gets_a_line_and_with_room_again_the_same_bytes(work, sizes):
    outcomes = work(1, "disk", sizes)["outcomes"]
    assert len(outcomes) == 5 * 2 * sizes
    for outcome in outcomes:
        (code,), (err,) = outcome["codes"], outcome["err"]
        warned = outcome["on_error"] == "continue" and outcome["writer"] in WARNED
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        said = [line for line in (err + outcome["out"]).splitlines() if "could not be written" in line]
        assert "Traceback" not in err + outcome["out"], outcome
        assert said, outcome
        assert all("No space left on device" in line or "Errno 28" in line for line in said), outcome
        assert code in (0, 1, 2) if warned else (code in (1, 2) and len(errors) == len(said) == 1), outcome
        assert outcome["left"] == [], outcome
        assert (outcome["again"], outcome["differ"]) == ([0], []), outcome
