"""The training steps that are compared: the plain baselines, the engine, and the engine with one speed-up switched off.

``python benchmarks/steps.py VARIANT WORKLOAD`` prints the peak memory of that variant, in bytes, in a process of
its own, so that it begins from nothing.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from baselines.training_step import act_step
from torch import Tensor

from act_engine.config import from_mapping
from act_engine.models import build_model
from act_engine.models.side_by_side import has_amx
from act_engine.training.trainer import Trainer
from act_kernels import use_backend

EPS, STEP_SIZE, ALPHA, TEMPERATURE, LR = 8 / 255, 2 / 255, 0.9, 4.0, 0.01


@dataclass(frozen=True)
class Workload:
    """What a step is made of."""

    model: str
    side: int
    batch: int
    attack_steps: int
    classes: int

    def __str__(self) -> str:
        return f"{self.model} {self.batch}x3x{self.side}x{self.side} PGD-{self.attack_steps}"


WORKLOADS = {
    "small": Workload("cifar_resnet18", 32, 64, 10, 10),
    "large_pgd3": Workload("resnet50", 224, 256, 3, 1000),
    "large_pgd10": Workload("resnet50", 224, 256, 10, 1000),
}

ON_GPU = torch.cuda.is_available()
FAST = {
    "train": {
        "precision": "bfloat16",
        "channels_last": True,
        "compile": ON_GPU,  # on CPUs it does not pay
    },
    "attack": {"view": True, "fold_batchnorm": True, "cuda_graph": True},
}
BASELINES = {
    "baseline float32": {},
    "baseline autocast + channels_last": {"autocast": torch.bfloat16, "channels_last": True},
}
ENGINE: dict[str, dict[str, Any]] = {
    "engine": {},
    f"engine {'without' if ON_GPU else 'with'} compile": {"train": {"compile": not ON_GPU}},
    "engine with recomputation": {"train": {"recompute": "natural"}},
    "engine without folding": {"attack": {"fold_batchnorm": False}},
    "engine without channels_last": {"train": {"channels_last": False}},
    "engine without autocast": {"train": {"precision": "float32"}},
    "engine without fused kernels": {"backend": "reference"},
    **(
        {"engine without CUDA graph": {"attack": {"cuda_graph": False}}}
        if ON_GPU
        else {"engine without images side by side": {"side_by_side": False}}
    ),
}
VARIANTS = (*BASELINES, *ENGINE)


@dataclass
class Step:
    """One variant, ready to run: `run` does a training step on the workload's batch and returns its losses."""

    run: Callable[[], tuple[Tensor, Tensor]]
    trainer: Trainer | None
    images: Tensor
    labels: Tensor


def build(variant: str, workload: Workload, folder: Path) -> Step:
    """The variant with freshly initialised models, the same for every variant."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (workload.batch, workload.side, workload.side, 3), dtype=np.uint8)
    labels = generator.integers(0, workload.classes, workload.batch)
    labels[0] = workload.classes - 1
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels).to(device)
    if variant in ENGINE:
        side_by_side = has_amx() and ENGINE[variant].get("side_by_side", True)
        with mock.patch("act_engine.models.side_by_side.has_amx", return_value=side_by_side):
            trainer = _trainer(ENGINE[variant], workload, folder, images, labels)
        backend = use_backend(ENGINE[variant]["backend"]) if "backend" in ENGINE[variant] else nullcontext()

        def run() -> tuple[Tensor, Tensor]:
            with backend:
                losses = trainer.train_step(x, y)
            return losses["robust"], losses["natural"]

        return Step(run, trainer, x, y)
    models = []
    for name in ("robust", "natural"):
        torch.manual_seed(name == "natural")
        shape = (3, workload.side, workload.side)
        models.append(build_model(workload.model, num_classes=workload.classes, image_shape=shape).to(device).train())
    step = act_step(
        *models,
        eps=EPS,
        step_size=STEP_SIZE,
        steps=workload.attack_steps,
        alpha=ALPHA,
        temperature=TEMPERATURE,
        lr=LR,
        **BASELINES[variant],
    )
    return Step(lambda: step(x / 255, y), None, x, y)


def _trainer(switches: dict[str, Any], workload: Workload, folder: Path, images: Any, labels: Any) -> Trainer:
    data = folder / "images.npz"
    if not data.exists():
        np.savez(data, train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2])
    settings = {
        "objective": {"name": "act", "robust_alpha": ALPHA, "natural_alpha": ALPHA, "temperature": TEMPERATURE},
        "attack": {"eps": EPS, "step_size": STEP_SIZE, "steps": workload.attack_steps, **FAST["attack"]},
        "data": {"name": "npz", "path": str(data), "batch_size": workload.batch},
        "model": {"name": workload.model, "num_classes": workload.classes},
        "optim": {"lr": LR, "schedule": "constant"},
        "train": {"epochs": 1, **FAST["train"]},
    }
    for group in ("attack", "train"):
        settings[group] |= switches.get(group, {})
    trainer = Trainer(from_mapping(settings), Path(tempfile.mkdtemp(dir=folder)))
    for name, learner in trainer.learners.items():  # the baselines' initial weights
        torch.manual_seed(name == "natural")
        shape = (3, workload.side, workload.side)
        fresh = build_model(workload.model, num_classes=workload.classes, image_shape=shape)
        learner.module.load_state_dict(fresh.state_dict())
    return trainer


def peak_memory(variant: str, workload: Workload, folder: Path) -> int:
    """Bytes that PyTorch's allocator held at most, weights and optimizers included."""
    if torch.cuda.is_available():
        step = build(variant, workload, folder)
        for _ in range(3):
            step.run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        step.run()
        return torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = build(variant, workload, folder)
        for _ in range(2):
            step.run()
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    changes = [(event.start_ns(), event.nbytes()) for event in events]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(peak_memory(sys.argv[1], WORKLOADS[sys.argv[2]], Path(scratch)))
