"""What a run's training method is called, and which of several runs are the same but for their seed."""

import statistics
from collections.abc import Collection, Sequence
from typing import Any

from act_engine.config import Config, to_mapping

METHODS = {
    "natural": "natural training",
    "madry": "adversarial training",
    "trades": "TRADES",
    "mart": "MART",
    "lbgat": "LBGAT",
    "rslad": "RSLAD",
    "act": "ACT",
}

# Where and how a run was made, not what: runs that differ in nothing else are seeds of one method.
INCIDENTAL = ("train.seed", "train.device", "train.log_every", "data.path", "data.workers", "parallel.", "checkpoint.")


def deployed_model(names: Collection[str]) -> str:
    """Out of the models that a run trained, the one that it is about: the robust one, where there is one."""
    return "robust" if "robust" in names else "natural"


def method_label(config: Config) -> str:
    """The method's customary name, and the switches that were put on top of it."""
    label = METHODS.get(config.objective.name, config.objective.name)
    if to_mapping(config)["objective"].get("awp_gamma"):
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
        differing = [name for name in mine if any(other[name] != mine[name] for other in alike)]
        detail = ", ".join(f"{name} {mine[name]}" for name in differing)
        result[f"{label} ({detail})" if detail else label] = group
    return result


def _settings(config: Config) -> dict[str, Any]:
    flat = {f"{group}.{k}": v for group, values in to_mapping(config).items() for k, v in values.items()}
    return {name: value for name, value in flat.items() if not name.startswith(INCIDENTAL)}


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
