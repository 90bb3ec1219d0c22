"""What the build of this copy left on record in `_build.json`; without one (a source folder), nothing was left out."""

import json
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
_record = json.loads((FOLDER / "_build.json").read_text()) if (FOLDER / "_build.json").exists() else {}

# Where the ops are registered: two builds in one process (as from the Hugging Face hub) must not meet.
NAMESPACE: str = _record.get("namespace", "act_kernels")
torch_ops = getattr(torch.ops, NAMESPACE)


def why_left_out(library: str) -> str:
    """Why this copy does not have the library (`_cpu`, `_cuda13`)."""
    left_out = _record.get("left_out", {})
    reason = left_out.get(library) or left_out.get(library.rstrip("0123456789"))
    return reason or "it was built for other versions of CUDA, or not built yet"
