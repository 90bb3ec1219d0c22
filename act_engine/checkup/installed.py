"""What is installed, what the machine is, and which kernels serve on it."""

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

import torch

import act_engine
from act_engine.checkup.finding import Finding
from act_engine.runs.environment import describe_device
from act_kernels import backends

IMPORT_SECONDS = 120
"""How long a package may take to be imported; DeepSpeed takes ten seconds on a slow machine."""


@dataclass(frozen=True)
class Need:
    """An optional package: the module to import, what needs it, and the extra of act-engine that brings it."""

    module: str
    package: str
    serves: str
    extra: str
    other: str | None = None
    """A package that serves as well."""

    @property
    def mend(self) -> str:
        return f"pip install 'act-engine[{self.extra}]'"


NEEDS = (
    Need(
        "nvidia.dali",
        "nvidia-dali-cuda130",
        "folders, lists and shards of image files through DALI",
        "imagenet",
        other="nvidia-dali-cuda120",
    ),
    Need("timm", "timm", "timm's models (resnet50, vit_base_patch16_224, …)", "imagenet"),
    Need("torchvision", "torchvision", "timm's models", "imagenet"),
    Need("deepspeed", "deepspeed", "parallel.strategy deepspeed (ZeRO)", "distributed"),
    Need("pyautoattack", "pyautoattack", "AutoAttack: evaluate.attack autoattack", "evaluation"),
    Need("matplotlib", "matplotlib", "act_engine.report, act_engine.analyze and act_engine.study", "report"),
)
REINSTALL = "pip install --force-reinstall --no-deps act-kernels"
REQUIRED = ("act-kernels", "numpy", "scikit-learn", "safetensors", "tensorboard", "triton")


def examine_packages() -> list[Finding]:
    """The versions of what is required, and of each optional package that imports; those that do not, and what for."""
    environment = {**os.environ, "DS_ACCELERATOR": "cuda" if torch.cuda.is_available() else "cpu"}
    children = [  # each in a process of its own: a broken package may do anything
        subprocess.Popen(
            [sys.executable, "-c", f"import {need.module}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for need in NEEDS
    ]
    findings = [
        Finding("python", "ok", f"{platform.python_version()}, {platform.platform()}"),
        Finding("act-engine", "ok", act_engine.__version__),
        Finding("torch", "ok", f"{torch.__version__}, built for {_built_for()}"),
    ]
    findings += [_required(package) for package in REQUIRED if package != "triton" or sys.platform == "linux"]
    return findings + [_optional(need, child) for need, child in zip(NEEDS, children, strict=True)]


def _built_for() -> str:
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"


def _required(package: str) -> Finding:
    version = _version(package)
    if version is None:
        return Finding(package, "FAILS", "is not installed, and act-engine needs it", "pip install act-engine")
    return Finding(package, "ok", version)


def _optional(need: Need, child: subprocess.Popen[str]) -> Finding:
    try:
        _, error = child.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        _, error = child.communicate()
        error = f"not imported within {IMPORT_SECONDS} s"
    version = _version(need.package) or (_version(need.other) if need.other else None)
    if child.returncode == 0:
        return Finding(need.package, "ok", f"{version or 'no version'}; {need.serves}")
    if version is None:
        return Finding(need.package, "lacks", f"for {need.serves}", need.mend)
    why = error.strip().splitlines()[-1] if error.strip() else f"ended with code {child.returncode}"
    return Finding(need.package, "FAILS", f"{version} does not import: {why}", need.mend)


def examine_machine() -> list[Finding]:
    """The CPU, and each GPU, or why PyTorch sees none."""
    findings = [Finding("cpu", "ok", f"{describe_device(torch.device('cpu'))} of {os.cpu_count()} cores")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            text = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
            findings.append(Finding(f"cuda:{index}", "ok", text))
        return findings
    driver = shutil.which("nvidia-smi") is not None
    if not driver:
        return [*findings, Finding("gpu", "lacks", "no NVIDIA driver found; everything runs on the CPU, slowly")]
    if torch.version.cuda is None:
        mend = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130"
        return [*findings, Finding("gpu", "lacks", "there is a driver, but this torch was built for the CPU", mend)]
    text = f"there is a driver, but torch for CUDA {torch.version.cuda} sees no device"
    mend = "compare with the CUDA version that nvidia-smi shows: a newer driver, or a torch for an older CUDA"
    return [*findings, Finding("gpu", "FAILS", text, mend)]


def examine_kernels() -> list[Finding]:
    """Which backend serves each op on each device, and why the others do not."""
    rows: dict[tuple[str, str], list[str]] = {}  # the ops of each
    for op, devices in backends().items():
        for device, found in devices.items():
            others = "".join(
                f"; {backend} could too" if state == "available" else f"; not {state}"
                for backend, state in found.items()
                if backend not in (found["automatic"], "automatic", "reference")
            )
            rows.setdefault((device, found["automatic"] + "\n" + others), []).append(op)
    findings = []
    for (device, row), ops in rows.items():
        backend, others = row.split("\n")
        slow = backend == "reference"
        text = f"{backend} serves {', '.join(ops)}{others}"
        findings.append(Finding(device, "lacks" if slow else "ok", text, REINSTALL if slow else None))
    return findings


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
