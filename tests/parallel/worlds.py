"""ACT under every strategy in worlds of 2, 1 and 4 processes: what the tests beside this file compare.

Run as a script with an output folder. It imports everything once and forks each world, since the imports cost more than
all of the training; rank 0 of a world of N writes what came out into ``world-N.pt``.
"""

import contextlib
import gc
import importlib
import json
import shutil
import sys
import time
import warnings
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.utils._python_dispatch import TorchDispatchMode

from act_engine.attack import Attack
from act_engine.config import AttackConfig, EvaluateConfig, from_mapping
from act_engine.data import build_data
from act_engine.data.digits import digits
from act_engine.evaluation import evaluate_models
from act_engine.learners import build_learner, deployed
from act_engine.learners.zero import import_deepspeed
from act_engine.models import build_model
from act_engine.parallel import connect
from act_engine.training import build
from act_engine.training.trainer import Trainer

Process = get_context("fork").Process
STEPS = 5
ZERO = {"strategy": "deepspeed"}
FSDP = {"strategy": "fsdp"}
WORLDS = (2, 1, 4)
CASES = {
    **{f"ddp/{a}": ({"strategy": "ddp"}, a) for a in (1, 2)},
    **{f"zero{stage}/{a}": ({**ZERO, "zero_stage": stage}, a) for stage in range(4) for a in (1, 2)},
    **{f"zero3-layers/{a}": ({**ZERO, "zero_stage": 3, "gather_for_attack": False}, a) for a in (1, 2)},
    **{f"fsdp/{a}": (FSDP, a) for a in (1, 2)},
    "fsdp-layers/1": ({**FSDP, "gather_for_attack": False}, 1),
}
HYBRID = {"fsdp-hybrid/1": ({**FSDP, "shard_size": 2}, 1)}  # in the world of 4 alone
RECOMPUTED = {  # in the world of 2 alone
    "ddp-blocks/1": ({"strategy": "ddp"}, 1),
    **{f"zero3-{mode}/1": ({**ZERO, "zero_stage": 3}, 1) for mode in ("blocks", "model")},
    "fsdp-blocks/1": (FSDP, 1),
    "fsdp-layers-blocks/1": ({**FSDP, "gather_for_attack": False}, 1),
    "zero3-layers-blocks/1": ({**ZERO, "zero_stage": 3, "gather_for_attack": False}, 1),
}
# A ZeRO-2 run of 2 processes, stopped after SAVED_AT steps, goes on in these worlds and strategies.
SAVED_AT = 3
SAVED = {**ZERO, "zero_stage": 2}
# So does a run of FSDP, whose two processes write a part each.
SHARDED = {
    1: {"single": {}},
    2: {"fsdp": FSDP, "zero3": {**ZERO, "zero_stage": 3}},
    4: {"hybrid": {**FSDP, "shard_size": 2}},
}
RESUMED = {
    1: {"zero2": SAVED, "single": {}},
    2: {"zero2": SAVED, "zero3": {**ZERO, "zero_stage": 3}, "ddp": {"strategy": "ddp"}, "fsdp": FSDP},
    4: {"zero2": SAVED, "zero3": {**ZERO, "zero_stage": 3}, "fsdp": FSDP},
}
SELECTING = {"ddp": {"strategy": "ddp"}, "zero2": SAVED}  # runs of 2 processes that export the best of three epochs
MEMORY = {"ddp": {"strategy": "ddp"}, **{f"zero{stage}": {**ZERO, "zero_stage": stage} for stage in range(4)}}
WIDTH, LAYERS = 64, 64  # of the model whose memory is measured
SMALL = 2 * (WIDTH**2 + WIDTH)  # elements: two of its layers
SMALL_BUCKETS = {
    "zero_optimization": {
        "reduce_bucket_size": SMALL,
        "allgather_bucket_size": SMALL,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": SMALL,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    }
}
SHARD_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}  # it leaves small parameters whole


class Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, width, 3, stride=stride), nn.SiLU()

    def forward(self, images):
        return self.act(self.conv(images))


class TinyNet(nn.Module):
    """No BatchNorm; odd sizes, so that no parameter divides evenly over the ranks.

    Smooth, and attacked in l2: a ReLU at 0, or the sign of a gradient near 0, would now and then turn float32's
    rounding, which differs with the order of a sum, into another training.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Block(1, 7, 2), Block(7, 13, 1))
        self.fc = nn.Linear(13, classes)

    def forward(self, images):
        return self.fc(self.features(images).flatten(2).mean(2))


class InFloat64(TinyNet):
    """The same, so that an image counts alike in any split of the batches."""

    def forward(self, images):
        return super().forward(images.double())


def settings(parallel: dict, accumulate: int, optimizer: str = "sgd", recompute: str = "none") -> dict:
    world_size = dist.get_world_size()
    return {
        "objective": {"name": "act", "robust_alpha": 0.5, "natural_alpha": 0.5},
        "attack": {"norm": "l2", "eps": 1.0, "step_size": 0.4, "steps": 3},
        "data": {"name": "digits", "batch_size": 32 // world_size},
        "optim": {
            "name": optimizer,
            "lr": 0.1 if optimizer == "sgd" else 1e-3,
            "schedule": "constant",
            "clip_norm": 0.5,
            "nesterov": optimizer == "sgd",
            "decayed": "matrices",
        },
        "train": {
            "epochs": 1,
            "max_steps": STEPS,
            "device": "cpu",
            "accumulate": accumulate,
            "ema": 0.9,
            "ema_start": 0.05,
            "recompute": recompute,
        },
        "parallel": parallel,
    }


def recomputed(case: str) -> str:
    """A case's train.recompute, which its name ends with before the slash."""
    mode = case.split("/")[0].rpartition("-")[2]
    return mode if mode in ("blocks", "model") else "none"


class Collectives(TorchDispatchMode):
    """Counts the collectives issued inside, by name, on every process group and in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, arguments=(), keywords=None):
        if op.namespace == "c10d":
            self.counts[op._schema.name.removeprefix("c10d::")] += 1
        return op(*arguments, **(keywords or {}))


def make_trainer(folder: Path, parallel: dict, accumulate: int = 1, **options) -> Trainer:
    if parallel.get("zero_stage") == 3:
        parallel = {**parallel, "deepspeed_config": str(folder.parent / "shard_all.json")}
    return Trainer(from_mapping(settings(parallel, accumulate, **options)), folder)


def train(trainer: Trainer, until: int) -> tuple[Tensor, list[dict[str, int]]]:
    """The mean losses over ranks of each step, and the collectives of each attack."""
    counts, losses = [], []
    call = Attack.__call__

    def counted(*arguments):
        with Collectives() as collectives:
            x_adv = call(*arguments)
        counts.append(dict(collectives.counts))
        return x_adv

    Attack.__call__ = counted
    for images, labels in trainer.data.train.epoch(0):
        mine = trainer.train_step(images, labels)
        losses.append(trainer.world.gather(torch.stack([mine["robust"], mine["natural"]])).mean(0))
        if trainer.step == until:
            break
    Attack.__call__ = call
    return torch.stack(losses), counts


def outcome(trainer: Trainer, until: int = STEPS) -> dict:
    losses, collectives = train(trainer, until)
    states = {name: learner.state_dict()[0] for name, learner in trainer.learners.items()}
    return {"losses": losses, "states": states, "collectives": collectives}


def select(folder: Path, parallel: dict, *, killed: bool) -> dict:
    """A run that learns for two epochs and then, from labels that are off by one, unlearns; what it exported."""
    chosen = {
        "objective": {"name": "act", "robust_alpha": 0.5, "natural_alpha": 0.5},
        "attack": {"eps": 0.1, "step_size": 0.05, "steps": 2},
        "data": {"name": "digits", "batch_size": 32, "selection_samples": 100},
        "optim": {"lr": 0.05, "schedule": "constant"},
        "train": {"epochs": 4, "device": "cpu", "ema": 0.9},
        "checkpoint": {"best_every_epochs": 1, "best_steps": 2, "keep": 1},
        "evaluate": {"steps": 2, "restarts": 1, "check_masking": False, "images": 100},
        "parallel": parallel,
    }

    def run(dies_at: int | None) -> Trainer:
        trainer = Trainer(from_mapping(chosen), folder)
        step = trainer.train_step

        def train_step(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            if trainer.step == dies_at:
                raise KeyboardInterrupt
            return step(images, labels if trainer.step < 2 * trainer.steps_per_epoch else (labels + 1) % 10)

        trainer.train_step = train_step
        with contextlib.suppress(KeyboardInterrupt):
            trainer.run()
        return trainer

    if killed:
        assert run(dies_at=45).evaluation is None
    trainer = run(dies_at=None)
    dist.barrier()  # rank 0 writes
    best = trainer.saving.tensors(trainer.evaluation["selection"]["step"])
    last = {name: learner.state_dict()[0] for name, learner in trainer.learners.items()}
    with (folder / "metrics.jsonl").open() as lines:
        records = [json.loads(line) for line in lines]
    return {
        "selection": trainer.evaluation["selection"],
        "models": trainer.evaluation["models"],
        "curve": {r["step"]: r["held_out_robust_accuracy"] for r in records if "held_out_robust_accuracy" in r},
        "exported": {file.name: load_file(file) for file in folder.glob("*.safetensors")},
        "best": {name: deployed(state) for name, state in best.items()},
        "last": {name: deployed(state) for name, state in last.items()},
    }


def peak_memory(settings: Path, parallel: dict) -> int:
    """Bytes of all tensors that training a deep, narrow model adds, at their peak in the third step.

    Looked at as some of the gradients become ready, before the optimizer steps, and after it; activations are next to
    nothing.
    """
    samples, looking = [], True

    def look() -> int:
        gc.collect()
        storages = {}
        for value in gc.get_objects():
            if isinstance(value, Tensor) and value.layout is torch.strided:
                for tensor in (value, value.grad if value.is_leaf else None):
                    if tensor is not None:
                        storage = tensor.untyped_storage()
                        storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())

    def sample(*_) -> None:
        """The least of three looks: gloo's threads let go of a collective's buffers a moment after its end."""
        if looking:
            looks = [look()]
            for _ in range(2):
                time.sleep(0.02)
                looks.append(look())
            samples.append(min(looks))

    warnings.simplefilter("ignore")
    sample()
    before = samples.pop()
    model = nn.Sequential(nn.Flatten(), *(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    for parameter in list(model.parameters())[:: LAYERS // 4]:
        parameter.register_post_accumulate_grad_hook(sample)
    parallel = {**parallel, "deepspeed_config": str(settings)}
    world = connect(torch.device("cpu"))
    learner = build_learner(model=model, world=world, lr_at=lambda step: 0.1, **parallel)
    del model
    for step in range(3):
        looking = step == 2
        loss = learner(torch.rand(1, 1, 8, 8)).logsumexp(1).sum()
        learner.backward(loss)
        del loss
        sample()
        learner.step()
        sample()
    return max(samples) - before


def fault(trainer: Trainer) -> list[str]:
    """What became of a checkpoint in parts of which rank 1 cannot write its own, as each rank sees it."""
    train(trainer, trainer.step + 1)
    write = HuggingFaceStorageWriter.write_data
    if dist.get_rank() == 1:
        HuggingFaceStorageWriter.write_data = lambda *arguments: Path("nowhere/file").write_text("")
    trainer.saving.save(trainer.step, say=print)
    trainer.saving.join()
    HuggingFaceStorageWriter.write_data = write
    dist.barrier()  # rank 0 clears up
    seen: list = [None] * dist.get_world_size()
    names = sorted(path.name for path in (trainer.output / "checkpoints").iterdir())
    dist.all_gather_object(seen, f"{names} failed={trainer.saving.failed}: {trainer.saving._writer.error}")
    return seen


def run_world(output: Path) -> dict:
    size = dist.get_world_size()
    cases = {1: {"single/1": ({}, 1), **CASES}, 2: {**CASES, **RECOMPUTED}, 4: {**CASES, **HYBRID}}.get(size, CASES)
    # The memory first: looking at all tensors takes the longer, the more objects there are.
    results = {f"memory/{name}": peak_memory(output / "small_buckets.json", p) for name, p in MEMORY.items()}
    results |= {
        name: outcome(
            make_trainer(output / f"{size}-{name.replace('/', '-')}", parallel, accumulate, recompute=recomputed(name))
        )
        for name, (parallel, accumulate) in cases.items()
    }
    if size == 1:
        results["adamw"] = outcome(make_trainer(output / "adamw", {}, optimizer="adamw"))
    if size == 2:
        for name, parallel in (("saved", SAVED), ("shards", FSDP)):
            trainer = make_trainer(output / name, parallel, optimizer="adamw")
            train(trainer, SAVED_AT)
            trainer.saving.save(trainer.step, say=print)
            trainer.saving.join()
            dist.barrier()
        results["shards/fault"] = fault(trainer)
        dist.barrier()
    for saved, strategies in (("saved", RESUMED[size]), ("shards", SHARDED[size])):
        for name, parallel in strategies.items():
            folder = output / f"{saved}-{size}-{name}"
            if dist.get_rank() == 0:
                shutil.copytree(output / saved, folder)
            dist.barrier()
            results[f"{saved}/{name}"] = outcome(make_trainer(folder, parallel, optimizer="adamw"))
    if size == 2:
        build.build_model = build_model  # one that learns digits in two epochs
        for name, parallel in SELECTING.items():
            for killed in (False, True):
                case = f"selecting/{name}{'/killed' * killed}"
                results[case] = select(output / case.replace("/", "-"), parallel, killed=killed)
    model = InFloat64(10).double()
    weights = torch.load(output / "model.pt")
    model.load_state_dict({name: 3 * value for name, value in weights.items()})  # or it says one class of all images
    data = build_data("digits", batch_size=8, eval_batch_size=37, rank=dist.get_rank(), world_size=size)
    settings = EvaluateConfig(steps=3, restarts=2, eps=0.05)
    world = connect(torch.device("cpu"))
    results["evaluation"] = evaluate_models({"robust": model}, data.test, AttackConfig(), settings, seed=1, world=world)
    return results


def import_all() -> None:
    """What the first of several trainers would import or read, done before the forks."""
    import_deepspeed("cpu")
    importlib.import_module("torch._inductor.compile_fx")
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    digits()
    gc.freeze()  # ZeRO-3 collects garbage, which would go through all of it for every model


def work(rank: int, size: int, output: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{output}/rendezvous-{size}", rank=rank, world_size=size)
    results = run_world(output)
    if rank == 0:
        torch.save(results, output / f"world-{size}.pt")
    dist.barrier()


def main(output: Path) -> None:
    torch.set_num_threads(1)
    import_all()
    torch.manual_seed(0)
    torch.save(TinyNet(10).state_dict(), output / "model.pt")
    (output / "shard_all.json").write_text(json.dumps(SHARD_ALL))
    (output / "small_buckets.json").write_text(json.dumps(SMALL_BUCKETS))
    build.build_model = lambda name, *, num_classes, **_: TinyNet(num_classes)
    for size in WORLDS:
        processes = [Process(target=work, args=(rank, size, output)) for rank in range(size)]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        if any(process.exitcode for process in processes):
            raise SystemExit(f"a process of the world of {size} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
