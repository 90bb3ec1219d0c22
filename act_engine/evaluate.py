"""Evaluate a run: ``torchrun -m act_engine.evaluate runs/digits --attack pgd --steps 100 --restarts 5``.

Or a model that was trained elsewhere: ``torchrun -m act_engine.evaluate --model.name my_file:Net --model.weights FILE
--data.name cifar10 --data.path /data/cifar10 --eps 8/255``.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from act_engine.config import AttackConfig, Config, DataConfig, EvaluateConfig, ModelConfig, flat, from_mapping
from act_engine.config.command_line import ended_by_loss, nested, own_arguments, read_options, user_errors
from act_engine.errors import require

if TYPE_CHECKING:
    from torch import nn

    from act_engine.parallel import World
    from act_engine.runs.load import Run

COMMAND = "torchrun -m act_engine.evaluate"
QUICK = {"attack": "pgd", "steps": 10, "restarts": 1, "step_size": None, "images": 500}


@dataclass(frozen=True)
class Place:
    path: str | None = None
    """Where the test images lie by now; or another test set with classes of the run's, whose results are kept apart."""


@dataclass(frozen=True)
class Arguments(EvaluateConfig):
    """Measure the clean and robust accuracy of a run's models; what is not given is as the run's config has it.

    Prints a table, with warnings of gradient masking, and keeps it in the run's folder: in evaluations/ under a name of
    its own, and as evaluation.json unless that one has more images. Without a run's folder, but with --model.weights:
    of a model that was trained elsewhere (--model.weights --help).
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
    others than best goes into evaluation.CHECKPOINT.json and has it in its name in evaluations/."""
    source: str | None = None
    """Folder of another run, on whose robust model PGD makes images that are then tried on this one (transfer)."""
    export: Literal["robustbench"] | None = None
    """robustbench: write robustbench/ into the run's folder, with what its leaderboard asks for: the claim as JSON, the
    weights with three lines that load them, a model card. It takes --attack autoattack."""
    export_name: str | None = None
    """With --export: name of the claim, such as Wang2023Better; null: the run's folder's."""
    again: bool = False
    """Measure anew what the same evaluation has measured before and kept in the run's folder."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""
    quick: bool = False
    """A look, no evidence: PGD-10 from one start on 500 images, unless given otherwise; nothing is written."""


@dataclass(frozen=True)
class Foreign(EvaluateConfig):
    """Measure the clean and robust accuracy of a model that was trained elsewhere, on the test images of a data set.

    Needs --model.name, --model.weights (or --model.pretrained), --data.name and --eps. Prints a table; with --output it
    is kept in that folder, as evaluation.json and in evaluations/, and an evaluation that was interrupted goes on.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    norm: Literal["linf", "l2", "l1"] | None = None
    """Norm of the perturbation ball; null: linf. l1: AutoAttack and its attacks alone."""
    eps: float | None = None
    """Radius of that ball in [0, 1] pixel units, such as 8/255."""
    class_names: str | None = None
    """data.name image_folder: the model's classes in the order of its outputs, by which the class folders of data.path
    get their labels; some may be missing there. A text file with a name a line, a folder of class folders, or imagenet.
    null: as data.path itself has them, which then holds train/ too."""
    output: str | None = None
    """Folder for evaluation.json and what has been measured so far; null: nothing is written."""
    export: Literal["robustbench"] | None = None
    """robustbench: write robustbench/ into the --output folder, with what its leaderboard asks for: the claim as JSON,
    the weights with three lines that load them, a model card. It takes --attack autoattack."""
    export_name: str | None = None
    """With --export: name of the claim, such as Wang2023Better; null: the --output folder's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    seed: int = 0
    """Of the random starts, 0 or more."""
    again: bool = False
    """Measure anew what the same evaluation has measured before and kept in the --output folder."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


COMMON = ("model.name", "model.weights", "model.pretrained", "model.mean", "model.std", "data.name", "data.path")
"""The settings of groups that `Foreign` is given most often."""
OF_TRAINING = (
    *("model.head", "model.natural_name", "model.natural_options", "model.natural_weights"),
    *("model.teacher_name", "model.teacher_options", "model.teacher_weights"),
    *("data.train_samples", "data.selection_samples", "data.label_noise", "data.batch_size", "data.augment"),
    *("data.train_sizes", "data.train_size_epochs"),
)
"""Settings of those groups without an effect on it."""


@dataclass
class Task:
    """What is measured, and where the result goes."""

    run: Run
    config: Config
    world: World
    seed: int
    progress: Literal["auto", "bar", "lines", "none"]
    folder: Path | None = None
    """null: the result is printed alone."""
    state: Path | None = None
    """Where it is kept batch by batch."""
    again: bool = False
    checkpoint: str = "best"
    source: nn.Module | None = None
    claim: str | None = None
    """Name for a leaderboard, where it is exported."""
    trained: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    """Further entries of evaluation.json."""
    remark: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    foreign = any(word.startswith("--model.") for word in words)
    with user_errors():
        task = _foreign(words) if foreign else _run(words)
    # After the arguments: a typo need not wait for torch.
    from act_engine.evaluation import evaluate_models, format_table
    from act_engine.progress import progress

    run, world, settings = task.run, task.world, task.config.evaluate
    images = run.data.test.num_samples
    total = len(run.models) * min(settings.images or images, images)
    try:
        shown = progress(task.progress, total, unit="image", what="evaluating", shown=world.is_main)
        with ended_by_loss(), world.watched(), shown as bar:
            evaluation = evaluate_models(
                run.models,
                run.data.test,
                task.config.attack,
                settings,
                seed=task.seed,
                world=world,
                source=task.source,
                state=task.state,
                again=task.again,
                whole=settings.by_library,
                further=run.further,
                on_batch=lambda count: bar.advance(count * world.size),
            )
    except (ValueError, OSError) as error:  # on this process alone, which then says so; the others do not go on
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if world.is_main:
            print("stopped by SIGINT", file=sys.stderr)
        return 128 + signal.SIGINT
    if world.is_main:
        evaluation |= task.notes
        print(format_table(evaluation))
        if task.remark:
            print(task.remark)
        with user_errors():
            _write(task, evaluation)
    world.close()
    return 0


def _write(task: Task, evaluation: dict[str, Any]) -> None:
    from act_engine.reporting.leaderboard import export_robustbench
    from act_engine.runs.evaluations import keep
    from act_engine.runs.methods import deployed_model

    if task.folder is None:
        return
    keep(task.folder, evaluation, task.checkpoint)
    if task.claim is not None:
        name = deployed_model(task.run.models) if "model" not in task.run.models else "model"
        card = export_robustbench(
            task.folder,
            task.run.models[name],
            evaluation,
            task.config,
            name=task.claim,
            model_name=name,
            image_shape=task.run.data.image_shape,
            trained=task.trained,
        )
        print(f"robustbench: {card} says what is left to fill in")


def _run(words: list[str]) -> Task:
    """The evaluation of a run; a collective."""
    options = read_options(Arguments, words, COMMAND)
    given = own_arguments(Arguments, options)
    require(given.seed is None or 0 <= given.seed < 2**31, "--seed", given.seed, "0 to 2147483647")
    if given.run is None:
        raise ValueError(
            "RUN: the folder of a training run is missing, such as runs/digits; or, of a model that was trained "
            "elsewhere, --model.name and --model.weights"
        )
    from act_engine.evaluation import check_evaluation
    from act_engine.parallel import connect
    from act_engine.runs.environment import pick_device
    from act_engine.runs.folder import MEASURED, check_output, evaluation_file, read_config
    from act_engine.runs.load import load_run, load_source
    from act_engine.runs.methods import method_label
    from act_engine.training.effects import refuse_idle_evaluation

    folder, quick, which = Path(given.run), given.quick, given.checkpoint
    world = connect(pick_device(given.device), timeout=read_config(folder).parallel.timeout)
    with world.together():
        config = read_config(folder)
        if not quick and world.is_main:
            check_output("RUN", folder, (evaluation_file(which),))
        look = dataclasses.replace(config.evaluate, **(QUICK if quick else {}))
        config = from_mapping(_given_evaluation(options), dataclasses.replace(config, evaluate=look))
        settings = config.evaluate
        if given.source is None:  # its images are made by PGD, whatever the attack
            refuse_idle_evaluation(config)
        check_evaluation(settings, config.model.num_classes)
        claim = _claim(given, config, folder)
        if quick and claim is not None:
            raise ValueError("--quick: got True; allowed with --export: False, for a look is no evidence")
        run = load_run(
            folder,
            world,
            settings.batch_size,
            whole=settings.by_library,
            checkpoint=which,
            data_path=options.get("data.path"),
            also=settings.also,
        )
        check_evaluation(settings, config.model.num_classes, run.data.image_shape[0])
        other = run.other_data
        if claim is not None and other is not None:
            raise ValueError(f"--data.path: got {other!r}; allowed with --export: the run's own test images")
        source = None if given.source is None else load_source(Path(given.source), run, world)
    notes = {"source": given.source, "data_path": other}
    return Task(
        run,
        config,
        world,
        seed=config.train.seed if given.seed is None else given.seed,
        progress=given.progress,
        folder=None if quick else folder,
        state=None if quick or other else folder / MEASURED / ("" if which == "best" else which),
        again=given.again,
        checkpoint=which,
        source=source,
        claim=claim,
        trained=f"{method_label(config)}, {config.train.epochs} epochs on {config.data.name}",
        notes={key: value for key, value in notes.items() if value is not None},
        remark="quick: a look, no evidence of robustness; nothing was written" if quick else "",
    )


def _foreign(words: list[str]) -> Task:
    """The evaluation of a model that was trained elsewhere; a collective."""
    if not words[0].startswith("-"):
        raise ValueError(f"RUN: got {words[0]!r}; allowed with --model.NAME: none, for a run has its own models")
    options = read_options(Foreign, words, COMMAND, common=COMMON)
    given = own_arguments(Foreign, options)
    config = from_mapping({**_given_evaluation(options), **nested(options)}, Config(attack=AttackConfig()))
    usual = flat(Config())
    for name, value in flat(config).items():
        if name in OF_TRAINING and value != usual[name]:
            raise ValueError(f"{name}: got {value!r}; allowed: {usual[name]!r}, for nothing is trained here")
    require(0 <= given.seed < 2**31, "--seed", given.seed, "0 to 2147483647")
    if config.model.weights is None and not config.model.pretrained:
        raise ValueError("model.weights: got None; allowed: the file of the model's weights, or model.pretrained true")
    if config.evaluate.eps is None and config.evaluate.attack != "none":
        raise ValueError("--eps: got None; allowed: the radius of the ball in [0, 1] pixel units, such as 8/255")
    from act_engine.evaluation import check_evaluation
    from act_engine.parallel import connect
    from act_engine.runs.environment import pick_device
    from act_engine.runs.folder import EVALUATION, MEASURED, check_output
    from act_engine.runs.load import load_foreign
    from act_engine.training.effects import refuse_idle_evaluation

    world = connect(pick_device(given.device))
    output = None if given.output is None else Path(given.output)
    with world.together():
        if output is not None and world.is_main:
            check_output("--output", output, (EVALUATION,))
        refuse_idle_evaluation(config)
        claim = _claim(given, config, output)
    run = load_foreign(config, world, class_names=given.class_names, say=print if world.is_main else lambda note: None)
    config = run.config
    with world.together():
        check_evaluation(config.evaluate, config.model.num_classes, run.data.image_shape[0])
        if output is not None and world.is_main:
            output.mkdir(parents=True, exist_ok=True)
    return Task(
        run,
        config,
        world,
        seed=given.seed,
        progress=given.progress,
        folder=output,
        state=None if output is None else output / MEASURED,
        again=given.again,
        claim=claim,
        notes={"weights_file": config.model.weights},
    )


def _given_evaluation(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    names = (setting.name for setting in dataclasses.fields(EvaluateConfig))
    return {"evaluate": {name: options[name] for name in names if name in options}}


def _claim(given: SimpleNamespace, config: Config, folder: Path | None) -> str | None:
    """The name under which the evaluation is exported; None: it is not."""
    from act_engine.reporting.leaderboard import check_export

    if given.export is None and given.export_name is not None:
        raise ValueError(f"--export_name: got {given.export_name!r}; allowed without --export: null")
    if given.export is not None and folder is None:
        raise ValueError("--output: got None; allowed with --export: a folder")
    name = "" if folder is None else given.export_name or folder.resolve().name
    check_export(given.export, config.evaluate, config.evaluate.ball(config.attack)[1], name)
    return None if given.export is None else name


if __name__ == "__main__":
    raise SystemExit(main())
