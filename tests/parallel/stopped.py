"""A run of two processes whose rank 1 stops itself: the worker of test_stopped.py.

Run as a script with an output folder, where it stops, and the value of parallel.timeout.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from faults import at, run
from file_faults import SHORT
from worlds import import_all

from act_engine.evaluation import premises
from act_engine.training.trainer import Trainer

STAGES = {"best": "_measure", "evaluation": "_finish", "autoattack": "_finish"}
"""The part of the trainer in which the stop comes, at the model's third answer under attack."""


def stop_in(stage: str, note: Path) -> Callable[[], None]:
    def prepare() -> None:
        within, ask, answers = getattr(Trainer, stage), premises.WatchedView.__call__, []

        def watched(self):
            def count(view, images):
                answers.append(len(images))
                if len(answers) == 3 and self.world.rank == 1:
                    stop(note)
                return ask(view, images)

            premises.WatchedView.__call__ = count
            try:
                return within(self)
            finally:
                premises.WatchedView.__call__ = ask

        setattr(Trainer, stage, watched)

    return prepare


def stop(note: Path) -> None:
    note.write_text(str(time.time()))
    os.kill(os.getpid(), signal.SIGSTOP)


def main(output: Path, where: str, timeout: float) -> None:
    torch.set_num_threads(1)
    import_all()
    note = output / "stopped-at"
    options = {**SHORT, "parallel__timeout": timeout, "evaluate__steps": 5}
    if where == "autoattack":
        options |= {"evaluate__attack": "apgd-ce"}
    in_training = at(0, 1, lambda *batch: stop(note))
    prepare = in_training if where == "training" else stop_in(STAGES[where], note)
    told = run(output / where, 2, prepare, **options)
    seconds = time.time() - float(note.read_text())
    outcome = {"codes": told["codes"], "err": told["err"][0], "seconds": seconds}
    (output / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
