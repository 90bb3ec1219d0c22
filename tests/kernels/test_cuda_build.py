"""The built library's CUDA kernels, from their machine code: every architecture, no spills, 16-byte accesses.

The figures are those that `nvcc -Xptxas -v` prints, read from the file that is shipped.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import act_kernels

_LIBRARY = next(Path(act_kernels.__file__).parent.glob("_cuda*.so"), None)
if _LIBRARY is None:
    pytest.skip("the CUDA kernels were not built (no nvcc, or ACT_BUILD=cpu)", allow_module_level=True)
triton = pytest.importorskip("triton", reason="cuobjdump comes with triton, which is not installed")

_KERNELS = ("linf_step_kernel", "l2_sums_kernel", "l2_apply_kernel", "random_start_kernel", "pair_loss_kernel")
_THREADS = {"linf_step_kernel": 256, "l2_sums_kernel": 256, "l2_apply_kernel": 256, "random_start_kernel": 256}


def _cuobjdump(*options: str) -> str:
    command = [triton.knobs.nvidia.cuobjdump.path, *options, str(_LIBRARY)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def usage():
    """{(architecture, kernel's mangled name): {"REG": …, "STACK": …, "SHARED": …}}"""
    found, architecture = {}, None
    for line in _cuobjdump("--dump-resource-usage").splitlines():
        architecture = (re.search(r"arch = (sm_\d+)", line) or [None, architecture])[1]
        function = re.search(r"Function (\S+):", line)
        if function:
            name = function[1]
        if "REG:" in line:
            found[architecture, name] = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
    return {key: value for key, value in found.items() if any(kernel in key[1] for kernel in _KERNELS)}


def test_every_kernel_is_there_for_sm_80_and_sm_90(usage):
    counts = Counter((architecture, kernel) for architecture, name in usage for kernel in _KERNELS if kernel in name)
    image_types, gradient_types = 3 * 2, 3
    per_architecture = {
        "linf_step_kernel": image_types * gradient_types,
        "l2_sums_kernel": image_types * gradient_types,
        "l2_apply_kernel": image_types * gradient_types,
        "random_start_kernel": image_types,
        "pair_loss_kernel": 3 * 6 * 2,  # types, homes of a row, labels and distributions
    }
    for architecture in ("sm_80", "sm_90"):
        assert {kernel: counts[architecture, kernel] for kernel in _KERNELS} == per_architecture


def test_no_kernel_spills(usage):
    assert {key: value for key, value in usage.items() if value["STACK"] or value["LOCAL"]} == {}


def test_blocks_fit_a_multiprocessor(usage):
    for (_, name), value in usage.items():
        # Enough threads at a time to keep 16-byte loads in flight: 65,536 registers a multiprocessor.
        assert value["REG"] <= 128, name
        assert value["SHARED"] <= 4096, name  # what launch_for leaves for it beside a wide row
        for kernel, threads in _THREADS.items():
            if kernel in name:
                assert 65536 // (value["REG"] * threads) >= 2, name


def test_accesses_are_16_bytes_wide():
    """Instructions by kernel: each has 128-bit loads, and each that writes images or gradients 128-bit stores."""
    loads, stores, name = Counter(), Counter(), ""
    for line in _cuobjdump("-sass", "-arch", "sm_90").splitlines():
        function = re.search(r"Function : (\S+)", line)
        name = function[1] if function else name
        loads[name] += ".128" in line and "LDG.E" in line
        stores[name] += ".128" in line and "STG.E" in line
    names = {name for name in loads if any(kernel in name for kernel in _KERNELS)}
    assert len(names) == 3 * 18 + 6 + 36
    bytes_alone = {name for name in names if "random_start" in name and "hEEv" in name}  # one uint8 image: 4 or 8 bytes
    assert [name for name in names - bytes_alone if not loads[name]] == []
    assert [name for name in names if not stores[name] and "l2_sums" not in name] == []
