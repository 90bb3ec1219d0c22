"""Evaluate a finished run: ``torchrun -m act_engine.evaluate runs/digits --attack pgd --steps 100 --restarts 5``."""

import dataclasses
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from act_engine.config import EvaluateConfig, from_mapping
from act_engine.config.command_line import own_arguments, read_options, user_errors

QUICK = {"attack": "pgd", "steps": 10, "restarts": 1, "step_size": None, "images": 500}


@dataclass(frozen=True)
class Place:
    path: str | None = None
    """Where the test images lie by now; or another test set with classes of the run's, whose results are kept apart."""


@dataclass(frozen=True)
class Arguments(EvaluateConfig):
    """Measure the clean and robust accuracy of a run's models; what is not given is as the run's config has it.

    Writes evaluation.json into the run's folder and prints it as a table, with warnings of gradient masking.
    """

    run: str | None = field(default=None, metadata={"positional": True})
    """The run's folder."""
    data: Place = field(default_factory=Place)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    seed: int | None = None
    """Of the random starts; null: the run's."""
    checkpoint: str = "best"
    """Which weights: best (those that the run exported), last, or step-N, one of its checkpoints; what is measured of
    others than best goes into evaluation.CHECKPOINT.json."""
    source: str | None = None
    """Folder of another run, on whose robust model PGD makes images that are then tried on this one (transfer)."""
    again: bool = False
    """Measure anew what the same evaluation has measured before and kept in the run's folder."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""
    quick: bool = False
    """A look, no evidence: PGD-10 from one start on 500 images, unless given otherwise; nothing is written."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "torchrun -m act_engine.evaluate")
        given = own_arguments(Arguments, options)
        if given.run is None:
            raise ValueError("RUN: the folder of a training run is missing, such as runs/digits")
        # After the arguments: a typo need not wait for torch.
        from act_engine.evaluation import check_evaluation, evaluate_models, format_table
        from act_engine.parallel import ProcessLost, connect
        from act_engine.progress import progress
        from act_engine.runs.environment import pick_device
        from act_engine.runs.folder import MEASURED, check_output, evaluation_file, read_config, write_json
        from act_engine.runs.load import load_run, load_source
        from act_engine.training.effects import refuse_idle_evaluation

        folder = Path(given.run)
        world = connect(pick_device(given.device), timeout=read_config(folder).parallel.timeout)
        quick, source = given.quick, given.source
        names = [f.name for f in dataclasses.fields(EvaluateConfig)]
        changes = {name: options[name] for name in names if name in options}
        with world.together():
            config = read_config(folder)
            if not quick and world.is_main:
                check_output("RUN", folder, (evaluation_file(options.get("checkpoint", Arguments.checkpoint)),))
            look = dataclasses.replace(config.evaluate, **(QUICK if quick else {}))
            config = from_mapping({"evaluate": changes}, dataclasses.replace(config, evaluate=look))
            settings = config.evaluate
            if source is None:  # its images are made by PGD, whatever the attack
                refuse_idle_evaluation(config)
            check_evaluation(settings, config.model.num_classes)
            whole = settings.by_library
            which = given.checkpoint
            place = options.get("data.path")
            run = load_run(folder, world, settings.batch_size, whole=whole, checkpoint=which, data_path=place)
            model = None if source is None else load_source(Path(source), run, world)
        seed = config.train.seed if given.seed is None else given.seed
    images = run.data.test.num_samples
    total = len(run.models) * min(settings.images or images, images)
    kind = given.progress
    try:
        with world.watched(), progress(kind, total, unit="image", what="evaluating", shown=world.is_main) as shown:
            evaluation = evaluate_models(
                run.models,
                run.data.test,
                config.attack,
                settings,
                seed=seed,
                world=world,
                source=model,
                state=None if quick or run.other_data else folder / MEASURED / ("" if which == "best" else which),
                again=given.again,
                whole=whole,
                on_batch=lambda count: shown.advance(count * world.size),
            )
    except (ValueError, OSError) as error:  # on this process alone, which then says so; the others do not go on
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ProcessLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)  # at once: the lost process's groups would abort this one (SIGABRT) as they are taken down
    except KeyboardInterrupt:
        if world.is_main:
            print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    if source is not None:
        evaluation["source"] = source
    if world.is_main:
        print(format_table(evaluation))
        if quick:
            print("quick: a look, no evidence of robustness; nothing was written")
        else:
            file = folder / evaluation_file(which)
            if run.other_data is not None:
                evaluation["data_path"] = run.other_data
                file = file.with_name(f"{file.stem}_{Path(run.other_data).resolve().stem}.json")
            write_json(file, evaluation)
    world.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
