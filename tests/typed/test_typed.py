"""Both packages are typed for their users."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_a_strict_client_passes_mypy(tmp_path: Path):
    pytest.importorskip("mypy", reason='needs mypy: pip install "act-engine[dev]"')
    client = Path(__file__).with_name("client.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path)]
    root = client.parents[2]
    environment = {**os.environ, "PYTHONPATH": "", "MYPYPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    result = subprocess.run([*command, str(client)], cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
