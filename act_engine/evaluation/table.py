"""An evaluation as a small table for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = {
    "clean_accuracy": "clean %",
    "robust_accuracy": "robust %",
    "pgd_accuracy": "PGD %",
    "transfer_accuracy": "transfer %",
    "noise_accuracy": "noise %",
    "corrupted_accuracy": "corrupted %",
}

ON = "on_"
"""Before the name of a further test set, in the name of its accuracy."""

NAMES = {"pgd": "PGD", "autoattack": "AutoAttack", "apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab": "FAB"}
NAMES |= {"fab-t": "FAB-T", "square": "Square"}
"""What attacks are called, by the setting evaluate.attack."""


def format_table(evaluation: Mapping[str, Any]) -> str:
    """The models' accuracies with their 95 % intervals, what they were measured with, and the warnings."""
    models = evaluation["models"]
    columns = columns_of(models.values())
    rows = [["model", *columns.values()]]
    rows += [[name, *(_cell(model, column) for column in columns)] for name, model in models.items()]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    attack = evaluation["attack"]
    robust = f"; robust: {describe_attack(attack)}" if attack else ""
    lines.append(f"{evaluation['samples']} test images, 95 % intervals{robust}")
    if evaluation.get("settings", {}).get("among") == "present":
        lines.append("the model chose among those classes alone of which the test set has images")
    kinds = next((len(model["corruptions"]) for model in models.values() if "corruptions" in model), 0)
    if kinds:
        lines.append(f"corrupted: the mean over {kinds} kind{'s' * (kinds > 1)} of corruption at severities 1 to 5")
    for name, further in evaluation.get("also", {}).items():
        lines.append(f"{name}: clean accuracy on the {further['samples']} images of {further['path']}")
    selected = evaluation.get("selection")
    if selected:
        lines.append(
            f"exported: after step {selected['step']} of {selected['last_step']}, the best on {selected['images']} "
            f"held-out training images ({100 * selected['accuracy']:.1f} %)"
        )
    if evaluation.get("source"):
        lines.append(f"transfer: from {evaluation['source']}")
    for name, model in models.items():
        worst = _worst_class(model)
        lines += [f"{name}: {worst}"] * bool(worst)
        if kinds := model.get("corruptions"):
            least = min(kinds, key=lambda kind: sum(kinds[kind]))
            levels = ", ".join(f"{100 * share:.1f}" for share in kinds[least])
            lines.append(f"{name}: worst corruption {least}, severities 1 to 5: {levels} %")
        lines += [f"warning: {name}: {text}" for text in model.get("warnings", [])]
    return "\n".join(lines)


def columns_of(models: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The accuracies that any of the models has, by their names in evaluation.json, with what a table calls them."""
    models = list(models)
    further = dict.fromkeys(key for model in models for key in model if key.startswith(ON))
    named = COLUMNS | {key: f"{key.removeprefix(ON).removesuffix('_accuracy')} %" for key in further}
    return {key: title for key, title in named.items() if any(model.get(key) is not None for model in models)}


def _cell(model: Mapping[str, Any], column: str) -> str:
    value = model.get(column)
    if value is None:
        return "–"
    low, high = model["intervals"][column]
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _worst_class(model: Mapping[str, Any]) -> str:
    column = "clean_accuracy" if model["robust_accuracy"] is None else "robust_accuracy"
    shares = {index: share for index, share in enumerate(model["per_class"][column]) if share is not None}
    if len(shares) < 2:
        return ""
    worst = min(shares, key=shares.__getitem__)
    return f"worst class {worst}, {COLUMNS[column].removesuffix(' %')} {100 * shares[worst]:.1f} %"


def describe_attack(attack: Mapping[str, Any]) -> str:
    """The ``attack`` of evaluation.json in words."""
    if attack["name"] != "pgd":
        name = NAMES[attack["name"]]
        text = f"{name} {attack['version']} ({attack['norm']}, eps {attack['eps']:.4g})"
        return f"{text}; PGD beside it: {_pgd(attack['pgd'])}" if attack["pgd"] else text
    return _pgd(attack)


def _pgd(attack: Mapping[str, Any]) -> str:
    loss = {"ce": "cross-entropy"}.get(attack["loss"], attack["loss"])
    aim = f", towards the {attack['targets']} likeliest wrong classes" if attack.get("targets") else ""
    starts = f"{attack['restarts']} random start{'s' if attack['restarts'] > 1 else ''}, worst case"
    return (
        f"PGD-{attack['steps']} ({loss}, {attack['norm']}, eps {attack['eps']:.4g}, step {attack['step_size']:.3g}"
        f"{aim}), {starts}"
    )
