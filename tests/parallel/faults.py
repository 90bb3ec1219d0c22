"""Runs that are disturbed on purpose: the workers of the tests in test_faults.py.

Run as a script with an output folder. It imports everything once and forks the processes of each run, as torchrun would
start them, with their output in files; what became of them goes into ``outcomes.json``.
"""

import errno
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
from worlds import import_all

from act_engine import train
from act_engine.training import checkpoint
from act_engine.training.step import TrainingStep

Process = get_context("fork").Process
SETTINGS = {
    "--recipe": "digits",
    "--train.device": "cpu",
    "--train.epochs": "2",
    "--train.log_every": "1",
    "--data.batch_size": "128",
    "--attack.steps": "1",
    "--attack.view": "false",
    "--checkpoint.every_steps": "3",
    "--evaluate.attack": "none",
    "--parallel.timeout": "20",
}
KILLS = 20


def at(step: int, rank: int, act: Callable) -> Callable[[], None]:
    """What a process does before it starts: let `act` happen at a step of a rank; it may change the batch."""

    def prepare() -> None:
        original = TrainingStep.__call__

        def train_step(self, *batch):
            if self.steps_taken == step and self.rank == rank:
                batch = act(*batch) or batch
            return original(self, *batch)

        TrainingStep.__call__ = train_step

    return prepare


def raise_signal(number: int) -> Callable:
    return lambda *batch: os.kill(os.getpid(), number)


def poison(images, labels):
    return images * float("nan"), labels


def fill_disk(step: int) -> Callable:
    """No space for what is written after `step`; the checkpoint before may still be under way as the disk fills."""

    def fill(*batch) -> None:
        save = checkpoint.save_file

        def full(tensors, path, *arguments):
            begun = re.search(r"step-(\d+)", str(path))
            if begun is None or int(begun[1]) > step:
                raise OSError(errno.ENOSPC, "No space left on device")
            save(tensors, path, *arguments)

        checkpoint.save_file = full

    return fill


def die_at_event(number: int, rank: int) -> Callable[[], None]:
    """Kill a rank at the `number`-th of the points where a step, or a file of a checkpoint, begins or ends."""

    def prepare() -> None:
        if int(os.environ["RANK"]) != rank:
            return
        passed = iter(range(1, 10**9))

        def watch(owner, name: str) -> None:
            original = getattr(owner, name)

            def watched(*arguments, **keywords):
                for moment in ("before", "after"):
                    if next(passed) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if moment == "before":
                        result = original(*arguments, **keywords)
                return result

            setattr(owner, name, watched)

        watch(TrainingStep, "__call__")
        for name in ("save_file", "_digest", "sync"):
            watch(checkpoint, name)
        watch(checkpoint.os, "replace")
        watch(checkpoint.shutil, "rmtree")

    return prepare


def start(folder: Path, rank: int, size: int, port: int, words: list[str], prepare: Callable[[], None]) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    prepare()
    try:
        code = train.main(words)
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(folder: Path, size: int = 2, prepare: Callable[[], None] = lambda: None, reap: bool = False, **given) -> dict:
    """Train in `size` processes; with `reap` the first death is everyone's. A stopped process is killed at the end."""
    folder.mkdir(exist_ok=True)
    settings = SETTINGS | {"--" + name.replace("__", "."): str(value) for name, value in given.items()}
    words = [word for pair in settings.items() for word in pair] + ["--output", str(folder / "run")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [Process(target=start, args=(folder, r, size, port, words, prepare)) for r in range(size)]
    for process in processes:
        process.start()
    processes[0].join(0 if reap else 300)
    while reap and all(process.is_alive() for process in processes):
        time.sleep(0.005)
    if reap:
        time.sleep(0.02)
    hurt = any(process.exitcode for process in processes)
    for process in processes:
        if hurt and reap:
            process.kill()
        process.join(5)
        process.kill()
        process.join()
    return {
        "codes": [process.exitcode for process in processes],
        "out": [(folder / f"out-{rank}.txt").read_text() for rank in range(size)],
        "err": [(folder / f"err-{rank}.txt").read_text() for rank in range(size)],
        "saved": sorted(int(path.name[5:]) for path in (folder / "run" / "checkpoints").glob("step-*")),
        "exported": (folder / "run" / "robust.safetensors").exists(),
    }


def kill_again_and_again(folder: Path, size: int, kills: int, **given) -> dict:
    """Kill a run at `kills` random points, one after the other, starting it again each time; then let it end."""
    draw = random.Random(size)
    deaths = ends = 0
    while deaths < kills:
        rank = deaths % size
        prepare = die_at_event(draw.randint(1, 4 if rank else 40), rank)  # a step is 2 events, its checkpoint about 30
        result = run(folder, size, prepare, reap=True, checkpoint__every_steps=1, checkpoint__keep=1, **given)
        if not {0, -signal.SIGKILL} & set(result["codes"]):
            raise SystemExit(f"a run that was to be killed failed: {result['err']}")
        deaths += -signal.SIGKILL in result["codes"]
        if result["codes"] == [0] * size:  # it came to its end first: once more from the start
            os.rename(folder / "run", folder / f"ended-{ends}")
            ends += 1
    return run(folder, size, checkpoint__every_steps=1, checkpoint__keep=1, **given) | {"deaths": deaths, "ends": ends}


def main(output: Path) -> None:
    torch.set_num_threads(1)
    import_all()
    zero = {"parallel__strategy": "deepspeed", "parallel__zero_stage": 2}
    outcomes = {
        "whole": run(output / "whole"),
        "whole-1": run(output / "whole-1", 1),
        "whole-zero": run(output / "whole-zero", **zero),
        "terminated": run(output / "terminated", prepare=at(4, 1, raise_signal(signal.SIGTERM))),
        "terminated-again": run(output / "terminated"),
        "killed": run(output / "killed", prepare=at(7, 1, raise_signal(signal.SIGKILL))),
        "killed-again": run(output / "killed"),
        "hung": run(output / "hung", prepare=at(4, 1, raise_signal(signal.SIGSTOP)), parallel__timeout=10),
        "poisoned": run(output / "poisoned", prepare=at(4, 1, poison)),
        "full": run(output / "full", prepare=at(4, 0, fill_disk(4))),
        "full-again": run(output / "full"),
        "full-last": run(output / "full-last", prepare=at(9, 0, fill_disk(9))),
        "full-continued": run(
            output / "full-continued", prepare=at(4, 0, fill_disk(4)), checkpoint__on_error="continue"
        ),
        "mistaken": run(output / "mistaken", model__name="smal_cnn"),
        "kills-1": kill_again_and_again(output / "kills-1", 1, KILLS),
        "kills-2": kill_again_and_again(output / "kills-2", 2, KILLS),
        "kills-zero": kill_again_and_again(output / "kills-zero", 2, KILLS, **zero),
    }
    (output / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
