"""A rank that the system stops (SIGSTOP), wherever the run is: the other one ends and names it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deepspeed")

WORKERS = Path(__file__).with_name("stopped.py")
TIMEOUT, BOUND = 15, 30
LOAD = 4  # times as long on a machine whose cores are shared by others
pytestmark = pytest.mark.faults


@pytest.mark.parametrize("where", ["training", "best", "evaluation", "autoattack"])
def test_stopped_rank_is_named_within_the_bound(where, tmp_path):
    if where == "autoattack":
        pytest.importorskip("autoattack")
    command = [sys.executable, str(WORKERS), str(tmp_path), where, str(TIMEOUT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads((tmp_path / "outcome.json").read_text())
    assert told["codes"][0] == 1, told
    assert "error: rank 0: another process died or hung (no sign of life from rank 1)" in told["err"], told
    assert "Traceback" not in told["err"]
    assert told["seconds"] <= BOUND * LOAD, told
