"""A setting that can have no effect is refused, in one line; every other one changes the run."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import pytest
import torch

from act_engine import evaluate, train
from act_engine.config import Config, flat, from_mapping, read_recipe, recipe_names, to_mapping
from act_engine.config.reading import open_field
from act_engine.data import build_data, sources
from act_engine.learners import deployed
from act_engine.models import build_model
from act_engine.objectives import number_names, objectives, registry
from act_engine.parallel import World
from act_engine.runs.methods import method_of
from act_engine.training.effects import NEEDS
from act_engine.training.resolve import resolve
from act_engine.training.trainer import Trainer

USUAL = flat(Config())
FIELDS = {
    f"{group.name}.{field.name}": typing.get_type_hints(group.type)[field.name]
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(group.type)
    if field.name != open_field(group.type)
}
CHOSEN = {  # where no other value follows from the type, or it would not be allowed alone
    "attack.start": "none",
    "attack.loss": "ce",
    "data.path": "nowhere",
    "data.augment": "crop_flip",
    "data.train_sizes": (16, 24),
    "model.name": "cifar_resnet18",
    "model.natural_name": "cifar_resnet18",
    "model.teacher_name": "cifar_resnet18",
    "model.output_field": "0",
    "model.mean": (0.4,),
    "model.std": (0.2,),
    "evaluate.norm": "l2",
    "evaluate.eps": 0.2,
    "train.accumulate": 2,
    "attack.warmup_epochs": 2.0,
    "train.mix_probability": 0.0,
    "train.cutmix_probability": 1.0,
    "train.ema_start": 0.9,
    "optim.betas": (0.9, 0.95),
}
WITH = {  # what a setting cannot go without, whatever the run
    "model.mean": {"model.std": (0.2,)},
    "model.std": {"model.mean": (0.4,)},
    "model.weights_entry": {"model.weights": "weights.safetensors"},
    "model.head": {"model.weights": "weights.safetensors"},
    "evaluate.norm": {"evaluate.eps": 0.3},
}
SELECTORS = ("objective.name", "data.name", "parallel.strategy", "train.device")  # the test's own axes
RUNS = {"single": 1, "ddp": 2, "deepspeed": 2}


def other(setting: str) -> Any:
    """An allowed value that is not the default."""
    usual, kind = USUAL[setting], FIELDS[setting]
    if setting in CHOSEN:
        return CHOSEN[setting]
    kinds = [one for one in typing.get_args(kind) if one is not type(None)] or [kind]
    if typing.get_origin(kind) is typing.Literal:
        return next(value for value in typing.get_args(kind) if value != usual)
    if bool in kinds:
        return not usual
    if typing.get_origin(kinds[0]) is tuple or typing.get_origin(kind) is tuple:
        return (1, 3)
    if typing.get_origin(kinds[0]) is dict or typing.get_origin(kind) is dict:
        return {"width": 2}
    if typing.get_origin(kinds[0]) is typing.Literal:
        return next(value for value in typing.get_args(kinds[0]) if value != usual)
    if float in kinds:
        return usual / 2 if usual else 0.25
    if int in kinds:
        return 2 if usual is None else usual + 1
    return "elsewhere"


def nest(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        group, _, field = name.partition(".")
        nested.setdefault(group, {})[field] = value
    return nested


def needed(objective: str) -> dict[str, Any]:
    """What an objective cannot do without."""
    return {"model.teacher_weights": "teacher.pt"} if "teacher" in objectives()[objective].frozen else {}


@pytest.mark.parametrize("strategy", RUNS)
@pytest.mark.parametrize("objective", objectives())
def test_every_setting_is_refused_or_part_of_the_resolved_run(
    objective: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if strategy == "deepspeed":
        pytest.importorskip("deepspeed")
    (tmp_path / "elsewhere").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(registry, "entry_points", lambda group: ())  # asked for each of the many settings: slow
    world = World(0, RUNS[strategy], torch.device("cpu"), 60.0)
    base = {"objective.name": objective, "parallel.strategy": strategy, **needed(objective)}
    refused, mine = {}, number_names(objectives()[objective])
    numbers = {f"objective.{name}" for kind in objectives().values() for name in number_names(kind)}
    for setting in [*FIELDS, *sorted(numbers)]:
        if setting in SELECTORS:
            continue
        value = 0.5 if setting in numbers else other(setting)
        given = {**base, **WITH.get(setting, {}), setting: value}
        try:
            config = from_mapping(nest(given))
            resolved = flat(resolve(config, method_of(config), world, 1))
        except ValueError as error:
            refused[setting] = str(error)
        else:
            assert resolved[setting] == (list(value) if isinstance(value, tuple) else value)
    for setting, error in refused.items():
        assert any(error.startswith(f"{name}: got ") for name in (setting, *WITH.get(setting, ()))), error
        assert "\n" not in error
    assert {name for name in numbers if name.removeprefix("objective.") not in mine} <= refused.keys()
    kind, attacks = objectives()[objective], objectives()[objective].attack_losses != ()
    assert ("attack.steps" in refused) == (not attacks)
    assert ("model.natural_weights" in refused) == ("natural" not in kind.trains)
    assert ("model.teacher_name" in refused) == ("teacher" not in kind.frozen)
    assert ("parallel.zero_stage" in refused) == (strategy != "deepspeed")
    assert "parallel.sync_batchnorm" in refused  # by one process, or on the CPU


@pytest.mark.parametrize("name", sources())
def test_every_setting_of_the_data_is_refused_or_the_data_sets_own(name: str, tmp_path: Path):
    """Of a data set that lies nowhere: what is wrong is then its path, if not the setting."""
    source = sources()[name]
    for setting in (name for name in FIELDS if name.startswith("data.") and name not in SELECTORS):
        field, value = setting.removeprefix("data."), other(setting)
        given = {"path": str(tmp_path / "nowhere")} if "path" in source.settings else {}
        options = {"batch_size": 8, **given, field: value}
        known = field in ("batch_size", "workers", "path", *source.settings)
        if (field == "download" and known) or (known and "path" not in source.settings):
            continue  # it would download, or has no path to be missing
        refused = False
        try:
            build_data(name, **options)
        except ValueError as error:
            refused = str(error).startswith(f"data.{field}: got") and not (field == "path" and known)
        except OSError:
            pass
        if field == "augment":
            assert refused == (value not in source.augmentations)
        else:
            assert refused != known, field


PARTS = {  # runs whose parts are built: between them every need is met in one and missing in another
    "act": {"objective.name": "act", "optim.milestones": [2], "train.mixup": 0.8, "train.cutmix": 1.0},
    "natural": {
        "objective.name": "natural",
        "optim.name": "adamw",
        "optim.schedule": "cosine",
        "optim.warmup_epochs": 1,
        "evaluate.eps": 0.1,
        "evaluate.norm": "linf",
        "model.natural_name": "small_cnn",
    },
    "rslad": {
        "objective.name": "rslad",
        "attack.view": False,
        "model.teacher_name": "small_cnn",
        "optim.schedule": "onecycle_cosine",
    },
    "trades": {
        "objective.name": "trades",
        "objective.awp_gamma": 0.01,
        "data.label_noise": 0.2,
        "train.ema": 0.5,
        "optim.milestones": [2],
    },
}
FEW = {"data.train_samples": 24, "data.batch_size": 24, "train.epochs": 3, "train.device": "cpu", "attack.steps": 5}
NOT_BUILT = {
    "attack.cuda_graph": "needs a GPU",
    "data.decode": "needs a GPU and files",
    "model.teacher_name": "the teacher's weights would not fit",
    "model.options": "this architecture has none",
    "model.natural_options": "this architecture has none",
    "model.teacher_options": "this architecture has none",
    "model.output_field": "this architecture returns a tensor",
    "model.weights_entry": "the file has one entry",
    "optim.every": "an epoch has one step",
}


def parts(config: Config, folder: Path) -> dict[str, Any]:
    """What a run is made of, and does in its first step, to compare."""
    trainer = Trainer(config, folder)
    learners, step = trainer.learners, trainer.train_step
    views = [step.attack.view] if step.attack is not None else []
    for frozen in (step.passes[name] for name in trainer.objective.frozen):
        while hasattr(frozen, "__wrapped__"):
            frozen = frozen.__wrapped__
        views.append(frozen)
    seen: dict[str, Any] = {
        "rates": [learners[name].lr_at(n) for name in learners for n in range(trainer.total_steps)],
        "ball": config.evaluate.ball(config.attack),
        "awp": step.perturbation_start if step.perturbation else None,
        "passes": [learner.recompute for learner in learners.values()],
        "optimizers": [str(learner.optimizer) for learner in learners.values()],
        "views": [f"{type(view).__name__} {getattr(view, 'module', None)}" for view in views],
    }
    (batch,) = trainer.data.train.epoch(0)
    seen["losses"] = {name: float(loss) for name, loss in step(*batch).items()}
    for name, learner in learners.items():
        seen[name] = [float(p.detach().double().sum()) for p in learner.module.parameters()]
        seen[f"{name}, deployed"] = [float(p.double().sum()) for p in deployed(learner.state_dict()[0]).values()]
    return seen


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Weights for each model that can start from some."""
    folder, paths = tmp_path_factory.mktemp("weights"), {}
    for seed, name in enumerate(("weights", "natural_weights", "teacher_weights")):
        torch.manual_seed(seed)
        model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
        model(torch.rand(32, 1, 8, 8))  # statistics to fold
        paths[f"model.{name}"] = str(folder / f"{name}.pt")
        torch.save(model.state_dict(), paths[f"model.{name}"])
    return paths


@pytest.mark.parametrize("case", PARTS)
def test_what_is_refused_changes_nothing_and_what_is_not_changes_the_run(
    case: str, files: dict[str, str], tmp_path: Path
):
    """Held against the parts themselves: settings that are refused are put in behind the check's back."""
    base = {**FEW, **PARTS[case]}
    if base["objective.name"] == "rslad":
        base["model.teacher_weights"] = files["model.teacher_weights"]
    unchecked = dataclasses.replace(from_mapping(nest(base)), under=None)
    first = parts(unchecked, tmp_path / "base")
    assert parts(unchecked, tmp_path / "again") == first
    built = [name for name in NEEDS if name not in NOT_BUILT and not name.startswith(("parallel.", "evaluate."))]
    for setting in built:
        value = files.get(setting, other(setting))
        if setting in base:  # then another than that
            continue
        if setting in ("model.name", "model.natural_name"):
            value = "cifar_wrn10_1"
        config = from_mapping(nest({setting: value}), unchecked)
        refused = is_refused(config, setting)
        changed = parts(dataclasses.replace(config, under=None), tmp_path / setting)
        assert (changed == first) == refused, setting


def is_refused(config: Config, setting: str) -> bool:
    world = World(0, 1, torch.device("cpu"), 60.0)
    try:
        resolve(config, method_of(config), world, 10)
    except ValueError as error:
        return f"{setting}: got" in str(error) and "for it needs" in str(error)
    return False


MISTAKES = {
    "zero_stage": (["--parallel.zero_stage", "2"], "parallel.zero_stage: got 2; allowed: 1, for it needs"),
    "offload": (["--parallel.offload", "optimizer"], "parallel.offload: got 'optimizer'; allowed: 'none', for"),
    "beta": (["--objective.name=madry", "--objective.beta=3"], "objective.beta: got 3.0; allowed with obj"),
    "alpha": (
        ["--objective.name=madry", "--objective.robust_alpha=1"],
        "objective.robust_alpha: got 1.0; allowed with",
    ),
    "temperature": (["--objective.name=madry", "--objective.temperature=1"], "objective.temperature: got 1.0; allowed"),
    "teacher": (["--model.teacher_weights", "a.pt"], "model.teacher_weights: got 'a.pt'; allowed: None, for it needs"),
    "natural": (
        ["--objective.name=madry", "--model.natural_name=x"],
        "model.natural_name: got 'x'; allowed: None, for",
    ),
    "sizes": (["--data.train_sizes", "8,16"], "data.train_sizes: got "),
    "size": (["--data.image_size", "32"], "data.image_size: got 32; allowed: 224, for digits has no such setting"),
    "workers": (
        ["--data.workers", "8"],
        "data.workers: got 8; allowed: 2, for it needs data that the loader's threads",
    ),
    "momentum": (["--optim.name=adamw", "--optim.momentum=0.5"], "optim.momentum: got 0.5; allowed: 0.9, for it needs"),
    "awp": (["--objective.awp_start_epoch", "3"], "objective.awp_start_epoch: got 3; allowed: 0, for it needs"),
    "version": (["--evaluate.version", "plus"], "evaluate.version: got 'plus'; allowed: 'standard', for it needs"),
    "milestones": (["--optim.schedule=cosine", "--optim.milestones=5"], "optim.milestones: got [5]; allowed: [60"),
    "restarts": (["--evaluate.attack=none", "--evaluate.restarts=2"], "evaluate.restarts: got 2; allowed: 5, for it"),
    "steps": (
        ["--objective.name=natural", "--attack.steps=3"],
        "attack.steps: got 3; allowed: 10, for it needs an obj",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_setting_without_effect_is_one_line_and_exit_code_2(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words, message = MISTAKES[case]
    with pytest.raises(SystemExit) as exit_:
        train.main(["--recipe", "digits", *words, "--output", str(tmp_path / "run")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def resolved(config: Config) -> Config:
    return resolve(config, method_of(config), World(0, 1, torch.device("cpu"), 60.0), 2)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_go_with_every_objective_and_choice(name: str):
    """What a recipe gave and a later choice made idle is no mistake; given with that choice it is one."""
    recipe = from_mapping(read_recipe(name))
    resolved(recipe)
    natural = from_mapping({"objective": {"name": "natural"}, "optim": {"schedule": "cosine"}}, recipe)
    resolved(natural)
    resolved(from_mapping({"train": {"seed": 3}}, natural))
    again = from_mapping(to_mapping(resolved(natural)))  # as a run wrote it down
    assert resolved(again) == again
    with pytest.raises(ValueError, match=r"attack\.steps: got 77"):
        resolved(from_mapping({"attack": {"steps": 77}}, natural))


def test_a_files_own_mistake_is_found_under_further_settings():
    file = from_mapping({"optim": {"name": "adamw", "momentum": 0.5}})
    with pytest.raises(ValueError, match=r"optim\.momentum: got 0\.5"):
        resolved(from_mapping({"train": {"seed": 3}}, file))
    resolved(from_mapping({"optim": {"name": "sgd"}}, file))  # which gives it its effect


def test_an_evaluations_mistakes_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--recipe", "digits", "--train.max_steps=1", "--attack.steps=1", "--evaluate.attack=none"]
    assert train.main([*words, "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for given, message in (
        (["--attack", "pgd", "--version", "rand"], "evaluate.version: got 'rand'; allowed: 'standard', for it needs"),
        (["--steps", "5"], "evaluate.steps: got 5; allowed: 100, for it needs evaluate.attack other than none"),
    ):
        with pytest.raises(SystemExit) as exit_:
            evaluate.main([str(tmp_path / "run"), *given])
        assert exit_.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
