"""The device a run uses, and what it ran on: versions, kernel backends and the source's commit."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from act_engine.errors import require
from act_kernels import backends

PACKAGES = (
    "act-engine",
    "torch",
    "triton",
    "numpy",
    "scikit-learn",
    "timm",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "deepspeed",
)


def pick_device(name: str) -> torch.device:
    """The device that ``train.device`` names; auto is the GPU if there is one."""
    require(name in ("auto", "cpu", "cuda"), "train.device", name, "auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device: got 'cuda', but no GPU is available; use cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def describe(device: torch.device) -> dict[str, Any]:
    """JSON values that say where and with what the run was made, and which kernels served it and why."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "command": sys.argv,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "kernels": backends(),
        "git_commit": _git_commit(),
    }


def describe_device(device: torch.device) -> str:
    """The device's name, with the number of threads of a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def describe_kernels(device_type: str) -> list[str]:
    """Which backend serves each kernel on ``"cpu"`` or ``"cuda"``, and why the others do not; a line each."""
    found = {op: dict(devices[device_type]) for op, devices in backends().items()}
    served: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for op, row in found.items():
        served.setdefault(row.pop("automatic"), []).append(op)
        for backend, state in row.items():
            if state != "available":
                reasons.setdefault(f"not {backend}: {state.removeprefix(f'{backend}: ')}", []).append(op)
    lines = [f"{backend} for {', '.join(ops)}" for backend, ops in served.items()]
    return lines + [
        reason + ("" if len(ops) == len(found) else f" (for {', '.join(ops)})") for reason, ops in reasons.items()
    ]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that this package lies in, marked ``+changes`` if it was changed; None outside one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+changes",
        "--exclude=*",
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
