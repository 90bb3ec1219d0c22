"""Run by torchrun at one world size: five ACT steps under every strategy and accumulation, in one process group.

Arguments: an output folder. Rank 0 writes what each configuration came to into ``world-N.pt``.
"""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from act_engine import trainer as trainer_module
from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.trainer import Trainer

STEPS = 5
ZERO = {"strategy": "deepspeed"}
CASES = {
    **{f"ddp/{a}": ({"strategy": "ddp"}, a) for a in (1, 2)},
    **{f"zero{stage}/{a}": ({**ZERO, "zero_stage": stage}, a) for stage in range(4) for a in (1, 2)},
    **{f"zero3-layers/{a}": ({**ZERO, "zero_stage": 3, "gather_for_attack": False}, a) for a in (1, 2)},
}
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # it leaves small parameters whole


class TinyNet(nn.Module):
    """No BatchNorm; odd sizes, so that no parameter divides evenly over the ranks."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 7, 3, stride=2), nn.ReLU(), nn.Conv2d(7, 13, 3), nn.ReLU())
        self.fc = nn.Linear(13, classes)

    def forward(self, images):
        return self.fc(self.features(images).flatten(2).mean(2))


def settings(parallel: dict, accumulate: int, world_size: int) -> dict:
    return {
        "objective": {"name": "act", "robust_alpha": 0.5, "natural_alpha": 0.5},
        "attack": {"eps": 0.15, "step_size": 0.05, "steps": 3},
        "data": {"name": "digits", "batch_size": 32 // world_size},
        "optim": {"lr": 0.1, "schedule": "constant", "clip_norm": 0.5},
        "train": {"epochs": 1, "max_steps": STEPS, "device": "cpu", "accumulate": accumulate, "ema": 0.9},
        "parallel": parallel,
    }


def use_tiny_net() -> None:
    trainer_module.build_model = lambda name, *, num_classes, image_shape: TinyNet(num_classes)


class Collectives(TorchDispatchMode):
    """Counts the collectives issued inside, by name, on every process group and in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, arguments=(), keywords=None):
        if op.namespace == "c10d":
            self.counts[op._schema.name.removeprefix("c10d::")] += 1
        return op(*arguments, **(keywords or {}))


def run_case(parallel: dict, accumulate: int, folder: Path) -> dict:
    if parallel.get("zero_stage") == 3:
        parallel = {**parallel, "deepspeed_config": str(folder.parent / "shard_all.json")}
    trainer = Trainer(from_mapping(settings(parallel, accumulate, dist.get_world_size())), folder)
    counts = []
    call = Attack.__call__

    def counted(*arguments):
        with Collectives() as collectives:
            x_adv = call(*arguments)
        counts.append(dict(collectives.counts))
        return x_adv

    Attack.__call__ = counted
    losses = []
    for images, labels in trainer.data.train.epoch(0):
        mine = trainer.train_step(images, labels)
        rows = torch.stack([mine["robust"], mine["natural"]])
        losses.append(trainer.world.gather(rows).mean(0))
        trainer.step += 1
        if trainer.step == STEPS:
            break
    Attack.__call__ = call
    states = {name: learner.state_dict()[0] for name, learner in trainer.learners.items()}
    return {"losses": torch.stack(losses), "states": states, "collectives": counts}


def main() -> None:
    output = Path(sys.argv[1])
    torch.set_num_threads(1)
    use_tiny_net()
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    if dist.get_rank() == 0:
        (output / "shard_all.json").write_text(json.dumps(SHARD_ALL))
    dist.barrier()
    cases = {"single/1": ({}, 1), **CASES} if size == 1 else CASES
    results = {}
    for name, (parallel, accumulate) in cases.items():
        began = time.perf_counter()
        results[name] = run_case(parallel, accumulate, output / f"{size}-{name.replace('/', '-')}")
        results[name]["seconds"] = time.perf_counter() - began
    if dist.get_rank() == 0:
        torch.save(results, output / f"world-{size}.pt")
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
