"""Finished runs read back: their models, their data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from act_engine.config import Config
from act_engine.data import Data, Loader, build_data, further_tests, identity, read_class_names, require_same
from act_engine.models import build_model, load_pretrained, load_weights
from act_engine.parallel import World
from act_engine.runs.data import read_data
from act_engine.runs.folder import LAST, read_config

MODELS = ("robust", "natural")


@dataclass(frozen=True)
class Run:
    """A run: its resolved config, its models by name and the files of their weights, and its data."""

    config: Config
    models: dict[str, nn.Module]
    weights: dict[str, Path]
    data: Data
    other_data: str | None = None
    """Where the data lies that was asked for, if it is not that which the run was measured on."""
    further: dict[str, Loader] = field(default_factory=dict)
    """Test sets that were asked for beside it, by name."""


def load_run(
    folder: Path,
    world: World,
    eval_batch_size: int | None = None,
    *,
    whole: bool = False,
    checkpoint: str = "best",
    data_path: str | None = None,
    also: Sequence[str] = (),
) -> Run:
    """Read a run back from its folder: its models, in eval mode, and its data.

    The data is this process's part of it, or with `whole` all of it. `checkpoint` is as in `weights_of`. With
    `data_path` the data lies there by now, or it is another test set with classes of the run's; those at `also` are
    read beside it.

    Raises:
        ValueError: the folder holds no run, or none of these weights; or the data is not the run's.
    """
    config = read_config(folder)
    batch_size = eval_batch_size or config.evaluate.batch_size
    recorded = read_data(folder, lambda message: print(f"warning: {message}") if world.is_main else None)
    settings = vars(config.data)
    if data_path is not None:
        settings = {**settings, "path": data_path, "class_names": recorded.get("test", {}).get("classes")}
    shared = {"eval_batch_size": batch_size, "order_seed": config.train.seed, "device": world.device}
    shared |= {"rank": 0, "world_size": 1} if whole else {"rank": world.rank, "world_size": world.size}
    data = build_data(**settings, **shared, train=False)
    other = None
    try:
        require_same(recorded.get("test"), identity(data.test), "test", str(folder))
    except ValueError as difference:
        if data_path is None:
            raise
        other = data_path
        if world.is_main:
            print(f"{difference}; they are measured as another test set")
    if data.num_classes > config.model.num_classes:
        raise ValueError(
            f"data.path: {data_path} has {data.num_classes} classes; allowed: the run's {config.model.num_classes}"
        )
    weights = weights_of(folder, checkpoint)
    models = load_models(weights, config, data.image_shape, world)
    further = further_tests(also, data, settings, config.model.num_classes, **shared)
    return Run(config, models, weights, data, other, further)


def load_foreign(
    config: Config, world: World, *, class_names: str | None = None, say: Callable[[str], None] = print
) -> Run:
    """A model that was trained elsewhere, called ``"model"``, and the test images, by the settings; a collective.

    The returned config has the number of classes. The data is this process's part of it, or, where the evaluation is
    AutoAttack's, all of it.

    Args:
        class_names: where the classes of image files are named; see `read_class_names`.
        say: is told how weights and data were read.

    Raises:
        ValueError: the model, its weights or the data are not what the settings say.
    """
    settings, whole = vars(config.data), config.evaluate.by_library
    shared = {"eval_batch_size": config.evaluate.batch_size, "device": world.device}
    shared |= {"rank": 0, "world_size": 1} if whole else {"rank": world.rank, "world_size": world.size}

    def read() -> tuple[Data, dict[str, Loader]]:
        names = None if class_names is None else read_class_names(class_names, config.data.name)
        try:
            classes = config.model.num_classes
            data = build_data(**settings, **shared, train=False, class_names=names, num_classes=classes)
        except FileNotFoundError as error:
            if config.data.name != "image_folder" or names is not None or config.data.path is None:
                raise
            raise ValueError(f"{error}; or --class_names, where it holds test images alone") from error
        return data, further_tests(config.evaluate.also, data, settings, data.num_classes, **shared)

    data, further = world.main_first(read)  # rank 0 lists the files, and the others find what it found
    model_settings = replace(config.model, num_classes=data.num_classes)
    architecture = model_settings.architecture("robust")
    with world.together():
        model = build_model(**architecture, image_shape=data.image_shape)
        if config.model.weights is not None:
            notes = load_weights(model, config.model.weights, entry=config.model.weights_entry)
        else:
            given = {"image_shape": data.image_shape, "options": architecture["options"]}
            notes = load_pretrained(model, architecture["name"], **given)
    for note in [*(f"model: {note}" for note in notes), *data.notes]:
        say(note)
    models = {"model": model.to(world.device).eval()}
    files = {} if config.model.weights is None else {"model": Path(config.model.weights)}
    return Run(replace(config, model=model_settings), models, files, data, further=further)


def weights_of(folder: Path, checkpoint: str = "best") -> dict[str, Path]:
    """The files of a run's weights by model's name: robust, natural or both.

    Args:
        folder: of the run.
        checkpoint: ``"best"``: what the run exported; ``"last"``: those at its end; ``"step-N"``: of that checkpoint.

    Raises:
        ValueError: there are none, or `checkpoint` is none of these.
    """
    if checkpoint in ("best", "last"):
        places = {name: folder / f"{name}.safetensors" for name in MODELS}
        if checkpoint == "last":
            last = {name: folder / f"{LAST}{name}.safetensors" for name in MODELS}
            places |= {name: file for name, file in last.items() if file.exists()}
    elif checkpoint.startswith("step-"):
        places = {name: folder / "checkpoints" / checkpoint / f"{name}.safetensors" for name in MODELS}
    else:
        raise ValueError(f"--checkpoint: got {checkpoint!r}; allowed: best, last, or one of its checkpoints, step-N")
    found = {name: file for name, file in places.items() if file.exists()}
    if not found and checkpoint in ("best", "last"):
        raise ValueError(
            f"{str(folder)!r}: the run has exported no weights yet; start it again with the same --output to end it"
        )
    if not found:
        steps = sorted((folder / "checkpoints").glob("step-*"), key=lambda path: (len(path.name), path.name))
        kept = ", ".join(path.name for path in steps if any((path / f"{n}.safetensors").exists() for n in MODELS))
        raise ValueError(
            f"--checkpoint: got {checkpoint!r}; allowed with {str(folder)!r}: best, last{kept and ', '}{kept}"
        )
    return found


def load_models(
    weights: Mapping[str, Path], config: Config, image_shape: tuple[int, int, int], world: World
) -> dict[str, nn.Module]:
    """The models of a run with these weights, by name, in eval mode."""
    models = {}
    for name, file in weights.items():
        model = build_model(**config.model.architecture(name), image_shape=image_shape)
        load_weights(model, file)
        models[name] = model.to(world.device).eval()
    return models


def load_source(folder: Path, run: Run, world: World) -> nn.Module:
    """The model of another run that a transfer attack is made on: its robust one, or the only one.

    Raises:
        ValueError: there is none, or it tells other classes apart or takes other images.
    """
    config = read_config(folder)
    ours, theirs = run.config.model.num_classes, config.model.num_classes
    if ours != theirs:
        raise ValueError(f"--source: got {str(folder)!r}, whose models have {theirs} classes; the run's have {ours}")
    models = load_models(weights_of(folder), config, run.data.image_shape, world)
    return models.get("robust", next(iter(models.values())))
