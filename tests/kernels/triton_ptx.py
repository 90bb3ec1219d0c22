"""Compiles the Triton kernels for GPUs that are not here, and prints what the PTX shows as JSON.

A script, since its process must not be the interpreter's: python triton_ptx.py
"""

import json
import re
import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from act_kernels.triton import act_loss, images, kl_ce_loss, pgd_step, random_start  # noqa: F401  (loads the modules)

_MODULES = {
    name: sys.modules[f"act_kernels.triton.{name}"] for name in ("act_loss", "kl_ce_loss", "pgd_step", "random_start")
}
_NUMBERS = dict.fromkeys(("step", "eps", "lower", "upper", "scale"), "fp32") | dict.fromkeys(
    ("steps", "epsilons", "lowers", "uppers", "scales")
)
_WEIGHTS = dict.fromkeys(
    ("first_ce", "first_kl", "second_ce", "second_kl", "temperature", "smoothing", "grad_scale"), "fp32"
)
_SIZES = {"numel": "i32", "sample_size": "i32", "inner": "i32", "channels": "i32", "samples": "i32"}


def _linf(dtype: str, grad: str = "*fp32", x: str = "*fp32", **changed: object) -> tuple:
    images_at = {"out": dtype, "x_adv": dtype, "grad": grad, "x": x}
    options = {"BLOCK": images.BLOCK, "WIDE": False, "num_warps": images.WARPS}
    return "pgd_step", "_linf_kernel", images_at | _NUMBERS | _SIZES | options | changed


def _rows(kernel: str, dtype: str, classes: int, act: bool, warps: int, columns: int) -> tuple:
    matrices = dict.fromkeys(("grad_first", "grad_second", "first", "second"), dtype)
    options = {"CLASSES": classes, "ROWS": max(1024 // columns, 1), "COLUMNS": columns, "ACT": act, "UNIT": False}
    pointers = {"losses": "*fp32", "labels": "*i64", "other_labels": None, "shares": None, "rows": "i32"}
    return "kl_ce_loss", kernel, matrices | pointers | _WEIGHTS | options | {"num_warps": warps}


_L2 = {
    "out": "*fp32",
    "x_adv": "*fp32",
    "grad": "*fp32",
    "x": "*fp32",
    "sums": "*fp64",
    "partials": "i32",
    "tiles": "i32",
}
_TILES = {"COLUMNS": 4096, "PARTIALS": 64, "WIDE": False, "num_warps": 8}

# What is launched for common sizes: the module, the kernel, and its arguments by name (types of run-time arguments,
# values of compile-time ones).
CASES = {
    "linf float32": _linf("*fp32"),
    "linf float32 above 2^31": _linf("*fp32", numel="i64", WIDE=True),
    "linf float16 with float32 gradient": _linf("*fp16", "*fp32", "*fp16"),
    "linf bfloat16 from uint8": _linf("*bf16", "*bf16", "*u8"),
    "linf per sample and channel": _linf("*fp32", **dict.fromkeys(("steps", "epsilons", "lowers", "uppers"), "*fp32")),
    "l2 of 3072": ("pgd_step", "_l2_whole_kernel", _L2 | _NUMBERS | _SIZES | _TILES | {"ROWS": 1}),
    "l2 sums": ("pgd_step", "_l2_sums_kernel", _L2 | _SIZES | _TILES),
    "l2 apply": ("pgd_step", "_l2_apply_kernel", _L2 | _NUMBERS | _SIZES | _TILES),
    "random start": (
        "random_start",
        "_random_start_kernel",
        {"out": "*fp32", "x": "*fp32", "key": "*i64", "first": "i64", "GAUSSIAN": True}
        | {"BLOCK": images.BLOCK, "WIDE": False, "num_warps": 4}
        | _NUMBERS
        | _SIZES,
    ),
    "act_loss 1000 float32": _rows("_rows_kernel", "*fp32", 1000, True, 4, 1024),
    "act_loss 1000 float16": _rows("_rows_kernel", "*fp16", 1000, True, 4, 1024),
    "kl_ce_loss 1000 float32": _rows("_rows_kernel", "*fp32", 1000, False, 4, 1024),
    "act_loss 4096 float32": _rows("_rows_kernel", "*fp32", 4096, True, 16, 4096),
    "act_loss 21844 float32": _rows("_wide_rows_kernel", "*fp32", 21844, True, 16, 4096),
}


def compile_for(capability: int, module: str, name: str, arguments: dict) -> dict[str, int]:
    """What the kernel's PTX and launch need, when pointers and sizes are multiples of 16."""
    kernel = getattr(_MODULES[module], name)
    options = {"num_warps": arguments["num_warps"], "enable_fp_fusion": module == "kl_ce_loss"}
    signature, constants, hints = {}, {}, {}
    for index, parameter in enumerate(kernel.arg_names):
        value = arguments[parameter]
        if isinstance(value, str):
            signature[parameter] = value
            if value[0] in "*i":
                hints[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter] = "constexpr"
            constants[(index,)] = value
    source = ASTSource(kernel, signature, constants, hints)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        "wide_loads": len(re.findall(r"ld\.global[.\w]*\.v4\.b32", ptx)),
        "loads": len(re.findall(r"ld\.global", ptx)),
        "wide_stores": len(re.findall(r"st\.global[.\w]*\.v4\.b32", ptx)),
        "local": len(re.findall(r"\.local\b", ptx)),
        "contracted": len(re.findall(r"\bfma\.rn\.f32", ptx)),
        "shared_bytes": compiled.metadata.shared,
        "spill_bytes": _stack(compiled.asm["cubin"]),
    }


def _stack(cubin: bytes) -> int:
    """Bytes of local memory a thread has in the machine code: what the assembler spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(int(number) for number in re.findall(r"STACK:(\d+)", usage))


if __name__ == "__main__":
    print(json.dumps({f"{case} sm_{sm}": compile_for(sm, *what) for sm in (80, 90) for case, what in CASES.items()}))
