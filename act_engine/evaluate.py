"""Evaluate a run: ``torchrun -m act_engine.evaluate runs/digits --attack pgd --steps 100 --restarts 5``.

Or a model that was trained elsewhere: ``torchrun -m act_engine.evaluate --model.name my_file:Net --model.weights FILE
--data.name cifar10 --data.path /data/cifar10 --eps 8/255``.
"""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from act_engine.config import AttackConfig, Config, DataConfig, EvaluateConfig, ModelConfig, from_mapping
from act_engine.config.command_line import ended_by_loss, nested, own_arguments, read_options, user_errors
from act_engine.errors import require

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

    Prints a table; with --output, evaluation.json goes into that folder, and a started evaluation goes on from there.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
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
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word.startswith("--model.") for word in words):
        return _evaluate_foreign(words)
    with user_errors():
        options = read_options(Arguments, words, "torchrun -m act_engine.evaluate")
        given = own_arguments(Arguments, options)
        if given.run is None:
            raise ValueError("RUN: the folder of a training run is missing, such as runs/digits")
        _check_seed(given.seed)
        # After the arguments: a typo need not wait for torch.
        from act_engine.evaluation import check_evaluation, evaluate_models, format_table
        from act_engine.parallel import connect
        from act_engine.progress import progress
        from act_engine.reporting.leaderboard import CARD, check_export, export_robustbench
        from act_engine.runs.environment import pick_device
        from act_engine.runs.evaluations import keep
        from act_engine.runs.folder import MEASURED, check_output, evaluation_file, read_config
        from act_engine.runs.load import load_run, load_source
        from act_engine.runs.methods import deployed_model, method_label
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
            claim = given.export_name or folder.resolve().name
            check_export(given.export, settings, settings.ball(config.attack)[1], claim)
            if quick and given.export is not None:
                raise ValueError("--quick: got True; allowed with --export: False, for a look is no evidence")
            whole = settings.by_library
            which = given.checkpoint
            place = options.get("data.path")
            how = {"whole": whole, "checkpoint": which, "data_path": place, "also": settings.also}
            run = load_run(folder, world, settings.batch_size, **how)
            check_evaluation(settings, config.model.num_classes, run.data.image_shape[0])
            if given.export is not None and run.other_data is not None:
                raise ValueError(f"--data.path: got {place!r}; allowed with --export: the run's own test images")
            model = None if source is None else load_source(Path(source), run, world)
        seed = config.train.seed if given.seed is None else given.seed
    images = run.data.test.num_samples
    total = len(run.models) * min(settings.images or images, images)
    kind = given.progress
    try:
        with (
            ended_by_loss(),
            world.watched(),
            progress(kind, total, unit="image", what="evaluating", shown=world.is_main) as shown,
        ):
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
                further=run.further,
                on_batch=lambda count: shown.advance(count * world.size),
            )
    except (ValueError, OSError) as error:  # on this process alone, which then says so; the others do not go on
        print(f"error: {error}", file=sys.stderr)
        return 2
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
            if run.other_data is not None:
                evaluation["data_path"] = run.other_data
            keep(folder, evaluation, which)
        if given.export is not None:
            deployed = deployed_model(list(run.models))
            place = export_robustbench(
                folder,
                run.models[deployed],
                evaluation,
                config,
                name=claim,
                model_name=deployed,
                image_shape=run.data.image_shape,
                classes=config.model.num_classes,
                trained=f"{method_label(config)}, {config.train.epochs} epochs on {config.data.name}",
            )
            print(f"robustbench: {place / CARD} says what is left to fill in")
    world.close()
    return 0


def _check_seed(seed: int | None) -> None:
    require(seed is None or 0 <= seed < 2**31, "--seed", seed, "0 to 2147483647")


def _evaluate_foreign(words: list[str]) -> int:
    with user_errors():
        options = read_options(Foreign, words, "torchrun -m act_engine.evaluate")
        given = own_arguments(Foreign, options)
        names = [f.name for f in dataclasses.fields(EvaluateConfig)]
        settings = {"evaluate": {name: options[name] for name in names if name in options}, **nested(options)}
        config = from_mapping(settings, Config(attack=AttackConfig()))
        _check_seed(given.seed)
        if config.model.weights is None:
            raise ValueError("model.weights: got None; allowed: the file of the model's weights")
        if config.evaluate.eps is None and config.evaluate.attack != "none":
            raise ValueError("--eps: got None; allowed: the radius of the ball in [0, 1] pixel units, such as 8/255")
        if given.export is not None and given.output is None:
            raise ValueError("--output: got None; allowed with --export: a folder")
        # After the arguments: a typo need not wait for torch.
        from act_engine.data import build_data, further_tests, read_class_names
        from act_engine.evaluation import check_evaluation, evaluate_models, format_table
        from act_engine.models import build_model, load_weights
        from act_engine.parallel import connect
        from act_engine.progress import progress
        from act_engine.reporting.leaderboard import CARD, check_export, export_robustbench
        from act_engine.runs.environment import pick_device
        from act_engine.runs.evaluations import keep
        from act_engine.runs.folder import EVALUATION, MEASURED, check_output

        world = connect(pick_device(given.device))
        output = None if given.output is None else Path(given.output)
        with world.together():
            if output is not None and world.is_main:
                check_output("--output", output, (EVALUATION,))
            shared = {"eval_batch_size": config.evaluate.batch_size, "device": world.device}
            names = None if given.class_names is None else read_class_names(given.class_names, config.data.name)
            try:
                data = build_data(**vars(config.data), **shared, train=False, class_names=names)
            except FileNotFoundError as error:
                if config.data.name != "image_folder" or names is not None or config.data.path is None:
                    raise
                raise ValueError(f"{error}; or --class_names, where it holds test images alone") from error
            classes = config.model.num_classes or data.num_classes
            check_evaluation(config.evaluate, classes, data.image_shape[0])
            claim = "" if output is None else given.export_name or output.resolve().name
            check_export(given.export, config.evaluate, config.evaluate.ball(config.attack)[1], claim)
            further = further_tests(config.evaluate.also, data, vars(config.data), classes, **shared)
            architecture = {**config.model.architecture("robust"), "num_classes": classes}
            model = build_model(**architecture, image_shape=data.image_shape)
            notes = load_weights(model, config.model.weights, entry=config.model.weights_entry)
            if world.is_main:
                for note in notes:
                    print(f"model: {note}")
                if output is not None:
                    output.mkdir(parents=True, exist_ok=True)
        images = data.test.num_samples
        total = min(config.evaluate.images or images, images)
        with progress(given.progress, total, unit="image", what="evaluating", shown=world.is_main) as shown:
            evaluation = evaluate_models(
                {"model": model.to(world.device).eval()},
                data.test,
                config.attack,
                config.evaluate,
                seed=given.seed,
                world=world,
                state=None if output is None else output / MEASURED,
                whole=True,
                further=further,
                on_batch=lambda count: shown.advance(count * world.size),
            )
    if world.is_main:
        print(format_table(evaluation))
        if given.export is not None:
            place = export_robustbench(
                output,
                model,
                evaluation,
                config,
                name=claim,
                model_name="model",
                image_shape=data.image_shape,
                classes=classes,
                trained=None,
            )
            print(f"robustbench: {place / CARD} says what is left to fill in")
        if output is not None:
            keep(output, {**evaluation, "weights_file": config.model.weights})
    world.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
