"""What is compared, on what, and with which search: the studies' data sets and the methods' settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from act_engine.config import AnalysisConfig, Config, from_mapping, read_recipe, to_mapping

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Method:
    """A training method, and the one parameter along which it trades clean for robust accuracy.

    All methods have the same number of values, so the same budget of search.
    """

    label: str
    settings: Settings
    parameter: str
    values: tuple[float, ...]
    averages: bool = False
    """Whether the robust model's weights are averaged, with the study's decay."""


ALPHAS = (0.3, 0.5, 0.7, 0.9)
METHODS = {
    "natural": Method(
        "natural training", {"objective": {"name": "natural"}}, "optim.weight_decay", (2e-4, 5e-4, 2e-3, 5e-3)
    ),
    "madry": Method(
        "adversarial training", {"objective": {"name": "madry"}}, "attack.eps / the test's", (0.5, 0.75, 1.0, 1.25)
    ),
    "trades": Method("TRADES", {"objective": {"name": "trades"}}, "objective.beta", (1.0, 3.0, 6.0, 12.0)),
    "mart": Method("MART", {"objective": {"name": "mart"}}, "objective.beta", (1.0, 3.0, 5.0, 8.0)),
    "act": Method("ACT", {"objective": {"name": "act"}}, "both alphas", ALPHAS),
    "act_awp_ema": Method(
        "ACT + AWP + EMA",
        {"objective": {"name": "act", "awp_gamma": 0.005}},
        "both alphas",
        ALPHAS,
        averages=True,
    ),
}


@dataclass(frozen=True)
class Study:
    """One data set's part: the recipe that all methods share, and how much is done."""

    recipe: str
    changes: Settings = field(default_factory=dict)
    """Put over the recipe."""
    validation_samples: int = 300
    """Training images held back in the search."""
    seeds: int = 5
    ema: float = 0.99
    """Decay of averaged weights; its reach, 1 / (1 − ema) steps, has to be short beside the training."""
    autoattack_images: int = 200
    """Test images, spread evenly, for AutoAttack; PGD sees all."""
    analysis: AnalysisConfig = field(default_factory=lambda: AnalysisConfig(samples=300, draws=3))


STUDIES = {
    "digits": Study("digits", autoattack_images=100, analysis=AnalysisConfig(samples=300, draws=3, epochs=20)),
    # Sized for 2 CPU cores with AMX, which bfloat16 needs to be fast; cifar10_full is the recipe itself, for a GPU.
    # Trainings on random labels are left out of them: so few epochs learn none.
    "textures": Study(
        "textures",
        {
            "data": {"batch_size": 50},
            "train": {"epochs": 4, "precision": "bfloat16"},
            "evaluate": {"restarts": 1, "images": 300},
        },
        seeds=3,
        ema=0.95,
        autoattack_images=40,
        analysis=AnalysisConfig(samples=200, noise=(), draws=3),
    ),
    "cifar10": Study(
        "cifar10_resnet18",
        {
            "attack": {"eps": 8 / 255, "step_size": 2.5 / 255, "steps": 5},
            "data": {"train_samples": 10_000, "batch_size": 64},
            "model": {"name": "cifar_wrn10_1"},
            "optim": {"schedule": "onecycle"},
            "train": {"epochs": 4, "precision": "bfloat16"},
            "evaluate": {"steps": 100, "restarts": 1, "eps": 8 / 255, "step_size": None, "images": 500},
        },
        validation_samples=500,
        seeds=3,
        autoattack_images=30,
        analysis=AnalysisConfig(samples=100, noise=(), draws=3),
    ),
    "cifar10_full": Study(
        "cifar10_resnet18",
        {"evaluate": {"steps": 100, "restarts": 5, "step_size": None}},
        validation_samples=1000,
        seeds=3,
        autoattack_images=10_000,
    ),
}


def base_config(study: Study, path: str | None, epochs: int | None = None) -> Config:
    """The settings that all methods share; `path` of the data, where it needs one; `epochs` None: the study's."""
    base = from_mapping(study.changes, from_mapping(read_recipe(study.recipe)))
    eps, _ = base.evaluate.ball(base.attack)  # whatever a method trains with
    return replace(
        base,
        data=replace(base.data, path=path),
        train=base.train if epochs is None else replace(base.train, epochs=epochs),
        evaluate=replace(base.evaluate, eps=eps, check_masking=False),
    )


def configure(base: Config, method: Method, value: float, seed: int, ema: float) -> Config:
    """The run of `method` with this `value` of its parameter; `ema`: the decay, if it averages weights."""
    config = from_mapping(method.settings, base)
    if method.averages:
        config = replace(config, train=replace(config.train, ema=ema))
    if method.parameter == "both alphas":
        changes = {"objective": {"robust_alpha": value, "natural_alpha": value}}
    elif method.parameter.startswith("attack.eps"):
        changes = {"attack": {"eps": value * base.attack.eps, "step_size": value * base.attack.step_size}}
    else:
        group, _, name = method.parameter.partition(".")
        changes = {group: {name: value}}
    return from_mapping({**changes, "train": {**changes.get("train", {}), "seed": seed}}, config)


def in_search(config: Config, validation_samples: int) -> Config:
    """The same run measured, by PGD-20 from one start, on training images that are held back from it."""
    return replace(
        config,
        data=replace(config.data, validation_samples=validation_samples),
        evaluate=replace(config.evaluate, steps=20, restarts=1, images=None),
    )


def config_text(config: Config) -> str:
    """Everything that decides a run's result, as a text: runs with the same one are the same."""
    mapping = to_mapping(config)
    for group in ("checkpoint", "parallel"):
        del mapping[group]
    del mapping["data"]["workers"], mapping["data"]["path"], mapping["train"]["progress"]
    return repr(mapping)
