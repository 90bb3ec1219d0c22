"""Every objective and switch on two processes, under ddp and ZeRO-3, is the training of one process on the whole batch.

Under ddp the two compute the natural model's activations twice, which changes nothing.

Run as a script with an output folder, this file does the training and writes ``world-N.pt``.
"""

import importlib
import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from worlds import TinyNet

from act_engine.config import from_mapping
from act_engine.data.digits import digits
from act_engine.learners import deployed
from act_engine.learners.zero import import_deepspeed
from act_engine.objectives import objectives
from act_engine.training import build
from act_engine.training.trainer import Trainer

SIZES, BATCH, STEPS = (1, 2), 32, 3
CASES = {
    "mart": {"name": "mart"},
    "lbgat": {"name": "lbgat"},
    "rslad": {"name": "rslad"},
    "act smoothed": {"name": "act", "label_smoothing": 0.1},
    "trades awp": {"name": "trades", "awp_gamma": 0.02},
    "lbgat awp": {"name": "lbgat", "awp_gamma": 0.02},
}
PARALLEL = {"single": {}, "ddp": {"strategy": "ddp"}, "zero3": {"strategy": "deepspeed", "zero_stage": 3}}
SHARED = [("ddp", case) for case in CASES] + [("zero3", case) for case in CASES if "awp" not in case]
"""What two processes train; weights are perturbed by one process or under ddp alone."""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    return {size: torch.load(folder / f"world-{size}.pt") for size in SIZES}


@pytest.mark.parametrize(("strategy", "case"), SHARED)
def test_two_processes_train_as_one(worlds, strategy, case):
    """float32: sums in another order differ by 1e-7 of their size, and three smooth steps let that grow a little."""
    losses, states = worlds[2][strategy, case]
    expected_losses, expected_states = worlds[1]["single", case]
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=1e-5)
    assert (losses.amax(0) - losses.amin(0)).min() > 1e-4
    for name, state in expected_states.items():
        for key, value in state.items():
            torch.testing.assert_close(states[name][key], value, rtol=0, atol=1e-5)


def test_the_switches_change_what_is_learnt(worlds):
    weights = [worlds[1]["single", name][1]["robust"]["fc.weight"] for name in ("lbgat awp", "lbgat")]
    assert (weights[0] - weights[1]).abs().max() > 1e-4


def train(folder: Path, strategy: str, objective: dict, size: int) -> tuple:
    kind = objectives()[objective["name"]]
    recomputed = "model" if strategy == "ddp" else "none"
    config = from_mapping(
        {
            "objective": objective,
            "attack": {"norm": "l2", "eps": 1.0, "step_size": 0.4, "steps": 2},
            "data": {"name": "digits", "batch_size": BATCH // size},
            "model": {"teacher_weights": str(folder / "teacher.pt")} if kind.frozen else {},
            "optim": {"lr": 0.1, "schedule": "constant"},
            "train": {"epochs": 1, "device": "cpu", "recompute": recomputed},
            "parallel": PARALLEL[strategy],
        }
    )
    trainer = Trainer(config, folder / f"{size} {strategy} {' '.join(map(str, objective.values()))}")
    losses = []
    for (images, labels), _ in zip(trainer.data.train.epoch(0), range(STEPS), strict=False):
        mine = trainer.train_step(images, labels)
        losses.append(trainer.world.gather(torch.stack(list(mine.values()))).mean(0))
    return torch.stack(losses), {name: deployed(learner.state_dict()[0]) for name, learner in trainer.learners.items()}


def work(rank: int, size: int, folder: Path) -> None:
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    runs = SHARED if size > 1 else [("single", case) for case in CASES]
    results = {(strategy, case): train(folder, strategy, CASES[case], size) for strategy, case in runs}
    if rank == 0:
        torch.save(results, folder / f"world-{size}.pt")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch._dynamo")  # DistributedDataParallel asks for it: once, before the forks
    import_deepspeed("cpu")  # likewise
    digits()  # likewise
    torch.manual_seed(0)
    torch.save(TinyNet(10).state_dict(), folder / "teacher.pt")
    build.build_model = lambda name, *, num_classes, **_: TinyNet(num_classes)
    fork = get_context("fork")
    for size in SIZES:
        processes = [fork.Process(target=work, args=(rank, size, folder)) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise SystemExit(f"a process of the world of {size} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
