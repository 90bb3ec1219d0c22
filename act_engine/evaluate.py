"""Evaluate a finished run: ``torchrun -m act_engine.evaluate runs/digits --attack pgd --steps 100 --restarts 5``."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from act_engine.cli import read_options, user_errors
from act_engine.config import EvaluateConfig


@dataclass(frozen=True)
class Arguments(EvaluateConfig):
    """Measure the clean and robust accuracy of a run's models; what is not given is as the run's config has it.

    Writes evaluation.json into the run's folder and prints it as a table.
    """

    run: str | None = field(default=None, metadata={"positional": True})
    """The run's folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    seed: int | None = None
    """Of the random starts; null: the run's."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "torchrun -m act_engine.evaluate")
        if options.get("run") is None:
            raise ValueError("RUN: the folder of a training run is missing, such as runs/digits")
        # After the arguments: a typo need not wait for torch.
        from act_engine.environment import pick_device
        from act_engine.evaluation import evaluate_models, format_table, load_run
        from act_engine.parallel import connect
        from act_engine.runfolder import EVALUATION, write_json

        folder = Path(options["run"])
        world = connect(pick_device(options.get("device", "auto")))
        with world.together():
            run = load_run(folder, world, options.get("batch_size"))
        names = [f.name for f in dataclasses.fields(EvaluateConfig)]
        changes = {name: options[name] for name in names if name in options}
        settings = dataclasses.replace(run.config.evaluate, **changes)
        seed = options.get("seed")
        seed = run.config.train.seed if seed is None else seed
    evaluation = evaluate_models(run.models, run.data.test, run.config.attack, settings, seed=seed, world=world)
    if world.is_main:
        write_json(folder / EVALUATION, evaluation)
        print(format_table(evaluation))
    world.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
