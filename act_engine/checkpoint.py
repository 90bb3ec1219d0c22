"""Checkpoints that are whole or absent, are verified before use, and execute nothing when read.

A checkpoint is a folder ``step-N``: tensors as safetensors, everything else as JSON, and last of all ``manifest.json``
with the SHA-256 of each file. It is written beside its final place, synced, and renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"

Tensors = Mapping[str, Tensor]


def save(root: Path, step: int, tensors: Mapping[str, Tensors], values: Mapping[str, Any], keep: int) -> Path:
    """Write checkpoint ``root/step-N`` atomically, then drop all but the `keep` newest.

    Args:
        tensors: file stem to the tensors in that file, by name.
        values: JSON values.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    root.mkdir(parents=True, exist_ok=True)
    final, partial = root / f"step-{step}", root / f".step-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for stem, group in tensors.items():
            save_file(_on_host(group), partial / f"{stem}.safetensors")
        (partial / "state.json").write_text(json.dumps(values), "utf-8")
        digests = {path.name: _digest(path) for path in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(digests, indent=1), "utf-8")
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        _sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in _by_step(root)[keep:]:
        shutil.rmtree(old)
    return final


def load_newest(root: Path, warn: Callable[[str], None]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """The newest checkpoint that verifies, as (tensors by file stem, values), or None if there is no checkpoint at all.

    A checkpoint that does not verify is passed over, and `warn` is told which and why.

    Raises:
        ValueError: there are checkpoints, and none of them verifies.
    """
    candidates = _by_step(root)
    for folder in candidates:
        fault = verify(folder)
        if fault is None:
            files = sorted(folder.glob("*.safetensors"))
            return {f.stem: load_file(f) for f in files}, json.loads((folder / "state.json").read_text("utf-8"))
        warn(f"{folder}: {fault}; trying the checkpoint before it")
    if candidates:
        raise ValueError(
            f"{root}: none of its {len(candidates)} checkpoints is whole; remove the folder to start the run anew"
        )
    return None


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None if every file is there and has its recorded digest."""
    try:
        digests = json.loads((folder / MANIFEST).read_text("utf-8"))
        wrong = [name for name, digest in digests.items() if _digest(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return f"unreadable ({error})"
    return f"corrupt ({', '.join(wrong)})" if wrong else None


def export_weights(path: Path, state: Tensors) -> None:
    """Write a plain state dict as safetensors, atomically."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(_on_host(state), partial)
    _sync(partial)
    os.replace(partial, path)


def _on_host(tensors: Tensors) -> dict[str, Tensor]:
    """Copies in host memory: safetensors takes no two tensors that share storage, and the originals may move on."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def _by_step(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    folders = [p for p in root.glob("step-*") if p.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=lambda p: int(p.name.removeprefix("step-")), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
