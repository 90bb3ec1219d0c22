"""The losses' CUDA kernels, from their machine code: what makes them fast must not come undone unseen.

They are compiled for sm_90 here, whatever the extension was built for; no GPU is needed.
"""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="cuobjdump comes with triton, which is not installed")
if shutil.which("nvcc") is None:
    pytest.skip("no CUDA compiler: nvcc is not on the PATH", allow_module_level=True)

_SOURCE = Path(__file__).resolve().parents[2] / "csrc" / "cuda" / "pair_loss.cu"
_ELEMENTS = 8  # of each matrix that a thread holds in registers
_PACKS = {"f": _ELEMENTS // 4, "6__half": 1, "13__nv_bfloat16": 1}  # of 16 bytes, by the type's mangled name


def _mnemonics(sass: str) -> dict[str, Counter]:
    """How often each kernel has each instruction, by the kernel's mangled name; @P guards are left away."""
    found, name = {}, ""
    for line in sass.splitlines():
        function = re.search(r"Function : (\S+)", line)
        name = function[1] if function else name
        instruction = re.match(r"\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", line)
        if instruction:
            found.setdefault(name, Counter())[instruction[1]] += 1
    return found


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """{(type, home of a row): instructions by mnemonic} of each pair_loss_kernel that takes labels."""
    cubin = tmp_path_factory.mktemp("sass") / "pair_loss.cubin"
    command = ["nvcc", "-O3", "-std=c++17", "-arch=sm_90", "-cubin", str(_SOURCE), "-o", str(cubin)]
    subprocess.run(command, check=True, capture_output=True)
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", str(cubin)]
    sass = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    named = {}
    for name, counts in _mnemonics(sass).items():
        kind = re.search(
            r"pair_loss_kernelILb0E(f|6__half|13__nv_bfloat16)Li(\d+)ELi\d+ENS0_\d+(InRegisters|Streamed)", name
        )
        if kind:
            named[kind[1], kind[3], int(kind[2])] = counts
    assert len(named) == 3 * 6
    return named


def _number(counts: Counter, *prefixes: str, wide: bool = False) -> int:
    return sum(n for name, n in counts.items() if name.startswith(prefixes) and (not wide or ".128" in name))


def test_rows_take_no_double_precision(kernels):
    """A consumer GPU does 2 of its operations a cycle and multiprocessor; the batch means' kernel alone has some."""
    doubles = {key: _number(counts, "DADD", "DMUL", "DFMA", "DSETP", "MUFU.RCP64H") for key, counts in kernels.items()}
    assert doubles == dict.fromkeys(kernels, 0)


def test_exponentials_are_kept_in_registers_and_computed_twice_elsewhere(kernels):
    for (kind, home, threads), counts in kernels.items():
        elements = _ELEMENTS if home == "InRegisters" else 2 * _ELEMENTS // _PACKS[kind]  # passes × a pack's
        assert _number(counts, "MUFU.EX2") == 4 * elements, (kind, home, threads)


def test_wide_rows_are_read_from_shared_memory_16_bytes_at_a_time(kernels):
    for (kind, home, threads), counts in kernels.items():
        if (home, threads) == ("Streamed", 512):
            narrow = _number(counts, "LDS") - _number(counts, "LDS", wide=True)
            assert _number(counts, "LDS", wide=True) == 2 * 2, kind  # passes × matrices
            assert narrow <= 10, kind  # a reduction's scratch: 2 maxima, 6 sums, 2 totals


def test_rows_are_read_once_and_gradients_written_once_in_wide_accesses(kernels):
    for (kind, home, _), counts in kernels.items():
        if home == "InRegisters":
            assert _number(counts, "LDG", wide=True) == 2 * _PACKS[kind]
            assert _number(counts, "STG", wide=True) == 2 * _PACKS[kind]


def test_a_row_in_registers_takes_few_instructions(kernels):
    """Static counts, the paths for unaligned rows and for the last few classes included: 1,312 to 1,432 when written,
    against 3,000 to 3,592 of the kernels that recomputed exponentials and divided in double."""
    for key, counts in kernels.items():
        if key[1] == "InRegisters":
            assert sum(counts.values()) <= 1600, key
