"""A run's training method: its objective, what it is called, and which of several runs differ in their seed alone."""

import dataclasses
import statistics
from collections.abc import Collection, Sequence
from typing import Any

from act_engine.config import Config, Numbers, flat, given_settings
from act_engine.objectives import Objective, build_objective, number_names, objectives, own_numbers

# Where and how a run was made, not what: runs that differ in nothing else are seeds of one method.
INCIDENTAL = (
    "train.seed",
    "train.device",
    "train.log_every",
    "train.progress",
    "train.tracker",
    "data.path",
    "data.workers",
    "parallel.",
    "checkpoint.",
)


def method_of(config: Config) -> Objective:
    """The objective of a run, with the numbers that were given to it.

    Numbers that a recipe or an older run states for another objective, and that this one does not have, are left out.

    Raises:
        ValueError: there is no such objective, or it was given a number that it does not have or that is out of range.
    """
    known = {name: number_names(kind) for name, kind in objectives().items()}
    mine = known.get(config.objective.name, ())
    refused = set(config.objective.numbers) - {number for numbers in known.values() for number in numbers}
    for layer, names in given_settings(config):
        has = known.get(layer.objective.name, ())
        numbers = {name.removeprefix("objective.") for name in names if name.startswith("objective.")}
        refused |= {number for number in numbers & set(config.objective.numbers) if number not in has}
    kept = {name: value for name, value in config.objective.numbers.items() if name in mine or name in refused}
    return build_objective(config.objective.name, **kept)


def deployed_model(names: Collection[str]) -> str:
    """Out of the models that a run trained, the one that it is about: the robust one, where there is one."""
    return "robust" if "robust" in names else "natural"


def method_label(config: Config) -> str:
    """The method's customary name, and the switches that were put on top of it."""
    kind = objectives().get(config.objective.name)  # None: of a package that is not installed here
    label = config.objective.name if kind is None else kind.label
    if config.objective.awp_gamma:
        label += " + AWP"
    return label if config.train.ema is None else f"{label} + EMA"


def group_by_method(configs: Sequence[Config]) -> dict[str, list[int]]:
    """The places of the runs that differ in their seed alone, by the method's label, in order of appearance.

    Groups of one method are told apart by the settings in which they differ: ``TRADES (objective.beta 3.0)``.
    """
    settings = [_settings(config) for config in configs]
    groups: list[list[int]] = []
    for place, mine in enumerate(settings):
        same = next((group for group in groups if settings[group[0]] == mine), None)
        if same is None:
            groups.append([place])
        else:
            same.append(place)
    labels = [method_label(configs[group[0]]) for group in groups]
    result = {}
    for label, group in zip(labels, groups, strict=True):
        alike = [settings[other[0]] for name, other in zip(labels, groups, strict=True) if name == label]
        mine = settings[group[0]]
        differing = [name for name in mine if any(other.get(name) != mine[name] for other in alike)]
        detail = ", ".join(f"{name} {mine[name]}" for name in differing)
        result[f"{label} ({detail})" if detail else label] = group
    return result


def _settings(config: Config) -> dict[str, Any]:
    if config.objective.name in objectives():  # what another objective would have counted for is no difference
        numbers = Numbers(own_numbers(method_of(config)))
        config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, numbers=numbers))
    return {name: value for name, value in flat(config).items() if not name.startswith(INCIDENTAL)}


def over_seeds(results: Sequence[Any], measure: str) -> Any:
    """Nested results of equal structure, one a seed, with each number replaced by its ``"mean"`` or ``"deviation"``.

    The sample standard deviation; None for a single seed, and for a value that is None for some seed.
    """
    first = results[0]
    if isinstance(first, dict):
        return {key: over_seeds([result[key] for result in results], measure) for key in first}
    if isinstance(first, list):
        return [over_seeds(list(row), measure) for row in zip(*results, strict=True)]
    if any(value is None for value in results):
        return None
    if measure == "mean":
        return statistics.mean(results)
    return statistics.stdev(results) if len(results) > 1 else None
