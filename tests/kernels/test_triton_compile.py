"""The Triton kernels compiled for sm_80 and sm_90: 16-byte accesses, no local memory, little shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

_SCRIPT = Path(__file__).with_name("triton_ptx.py")
_KERNELS = Path(__file__).resolve().parents[2] / "kernels"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What each compiled kernel shows, by "case sm_NN"; from a process of its own, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join((str(_KERNELS), environment.get("PYTHONPATH", "")))
    result = subprocess.run(
        [sys.executable, str(_SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_no_kernel_spills_and_blocks_can_share_a_multiprocessor(shown):
    assert {name: facts for name, facts in shown.items() if facts["local"] or facts["spill_bytes"]} == {}
    assert {name: facts for name, facts in shown.items() if facts["shared_bytes"] > 16 * 1024} == {}


def test_images_and_logits_are_read_and_written_16_bytes_at_a_time(shown):
    # Sums write one number a program; everything else stores images or gradients.
    narrow = [
        name
        for name, facts in shown.items()
        if not facts["wide_loads"] or (not facts["wide_stores"] and "sums" not in name)
    ]
    assert narrow == []
    for capability in ("sm_80", "sm_90"):
        linf = shown[f"linf float32 {capability}"]
        assert linf["loads"] == linf["wide_loads"]  # and not a single narrow one
        # 8 elements of three operands, and of one result, in each of the two branches (full block, last block).
        assert (linf["wide_loads"], linf["wide_stores"]) == (2 * 6, 2 * 2)
        # Each row is read once and each gradient written once: 8 elements a thread of two matrices.
        rows = shown[f"act_loss 1000 float32 {capability}"]
        assert (rows["wide_loads"], rows["wide_stores"]) == (4, 4)


def test_image_kernels_round_as_the_reference(shown):
    image_kernels = [name for name in shown if name.startswith(("linf", "l2", "random"))]
    assert {name: shown[name]["contracted"] for name in image_kernels} == dict.fromkeys(image_kernels, 0)
