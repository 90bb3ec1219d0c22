"""What a report says in words and figures: the verdict, the measurements side by side, the checks of the attack."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from act_engine.evaluation import wilson
from act_engine.evaluation.table import COLUMNS, ON, columns_of, describe_attack
from act_engine.reporting.measure import MeasuredRun
from act_engine.runs.folder import LAST


@dataclass(frozen=True)
class Share:
    """A share of images, and the 95 % interval of it; all in [0, 1]."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"

    @property
    def percent(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def model_name(name: str) -> str:
    """What a reader calls a model of an evaluation: ``last.robust`` is ``robust (last weights)``."""
    return f"{name.removeprefix(LAST)} (last weights)" if name.startswith(LAST) else name


def share(model: Mapping[str, Any], key: str, samples: int) -> Share | None:
    """An accuracy of one model of an evaluation, such as ``robust_accuracy``; None where it was not measured."""
    value = model.get(key)
    if value is None:
        return None
    low, high = model.get("intervals", {}).get(key) or wilson(round(value * samples), samples)
    return Share(value, low, high)


def verdict(runs: Sequence[MeasuredRun]) -> list[str]:
    """What was found, in two sentences."""
    return _verdict_of_one(runs[0]) if len(runs) == 1 else _verdict_of_several(runs)


def _verdict_of_one(run: MeasuredRun) -> list[str]:
    evaluation, models = run.evaluation, run.evaluation["models"]
    samples, attack = evaluation["samples"], evaluation["attack"]
    model = models[run.model]
    clean, robust = (share(model, f"{kind}_accuracy", samples) for kind in ("clean", "robust"))
    guessing = 1 / run.num_classes
    first = f"The {run.model} model is right on {clean.percent} of {samples} test images"
    if robust is None:
        first += "; no attack was run, so nothing is known of its robustness."
    else:
        first += f", and stays right under {short_attack(attack)} on {robust.percent}"
        first += ", which is no better than guessing." if robust.low <= guessing else "."
    other = next((name for name in models if name != run.model and not name.startswith(LAST)), None)
    second = f"Guessing one of {run.num_classes} classes is right on {100 * guessing:.3g} %"
    if other is not None:
        clean, robust = (share(models[other], f"{kind}_accuracy", samples) for kind in ("clean", "robust"))
        under = "" if robust is None else f", and on {robust.percent} under the same attack"
        second = (
            f"The {other} model, trained beside it, is right on {clean.percent}{under}; guessing one of "
            f"{run.num_classes} classes is right on {100 * guessing:.3g} %"
        )
    signs = len(model.get("warnings", []))
    if attack is not None and signs:
        second += f"; {signs} of the checks below say{'s' * (signs == 1)} that the robust figure may be too high"
    return [first, f"{second}."]


def _verdict_of_several(runs: Sequence[MeasuredRun]) -> list[str]:
    attacks = {attack_key(run.evaluation) for run in runs}
    if len(attacks) > 1:
        return [
            "These runs were last measured with different attacks, whose figures do not compare.",
            "Measure them alike with act_engine.evaluate: what was measured alike stands together below.",
        ]
    key = "clean_accuracy" if runs[0].evaluation["attack"] is None else "robust_accuracy"
    found = [(run.name, share(run.evaluation["models"][run.model], key, run.evaluation["samples"])) for run in runs]
    found.sort(key=lambda entry: -entry[1].value)
    under = "" if key == "clean_accuracy" else f" under {short_attack(runs[0].evaluation['attack'])}"
    figures = "; ".join(f"{name}: {value.percent}" for name, value in found)
    first = f"Right on the {runs[0].evaluation['samples']} test images{under}, the best first: {figures}."
    (best, top), (_, next_) = found[:2]
    alike = [name for name, value in found[1:] if value.high >= top.low]
    if alike:
        second = f"The intervals of {best} and {', '.join(alike)} overlap: these images do not tell them apart"
    else:
        second = f"The interval of {best} lies above all others, by {100 * (top.low - next_.high):.1f} points or more"
    return [first, f"{second}, and other seeds of the training would add to the spread."]


def short_attack(attack: Mapping[str, Any]) -> str:
    """An attack in few words: ``PGD-100 (linf, eps 0.15)``."""
    name = f"PGD-{attack['steps']}" if attack["name"] == "pgd" else describe_attack({**attack, "pgd": None})
    return f"{name} ({attack['norm']}, eps {attack['eps']:.4g})" if attack["name"] == "pgd" else name


def attack_key(evaluation: Mapping[str, Any]) -> str:
    """What two robust accuracies must have in common to be compared: the attack, and which images."""
    attack = evaluation["attack"]
    text = "no attack" if attack is None else describe_attack({**attack, **({"pgd": None} if "pgd" in attack else {})})
    return f"{text}; {_images(evaluation)}"


def _images(evaluation: Mapping[str, Any]) -> str:
    where = evaluation.get("data_path")
    return f"{evaluation['samples']} test images" + (f" of {Path(where).name}" if where else "")


def measurements(runs: Sequence[MeasuredRun]) -> dict[str, list[tuple[MeasuredRun, str, Share]]]:
    """Every accuracy under what it was measured with: only those that can be compared stand under one heading."""
    found: dict[str, dict[tuple[str, str], tuple[MeasuredRun, str, Share]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            for name, model in evaluation["models"].items():
                for heading, key in _headings(evaluation):
                    value = share(model, key, evaluation["samples"])
                    if value is not None:
                        found.setdefault(heading, {}).setdefault((run.name, name), (run, name, value))
    return {heading: list(rows.values()) for heading, rows in found.items()}


def _headings(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    images, attack = _images(evaluation), evaluation["attack"]
    yield f"Clean; {images}", "clean_accuracy"
    if attack is not None:
        yield attack_key(evaluation), "robust_accuracy"
        beside = attack.get("pgd")
        if beside:
            yield attack_key({**evaluation, "attack": beside}), "pgd_accuracy"
        ball = f"{attack['norm']}, eps {attack['eps']:.4g}"
        yield f"Random noise ({ball}), {evaluation.get('noise_draws')} draws, worst case; {images}", "noise_accuracy"
        if evaluation.get("source"):
            yield f"Transferred from {evaluation['source']} ({ball}); {images}", "transfer_accuracy"
    known = ("clean_accuracy", "robust_accuracy", "pgd_accuracy", "noise_accuracy", "transfer_accuracy")
    for key in columns_of(evaluation["models"].values()):
        if key.startswith(ON):
            name = key.removeprefix(ON).removesuffix("_accuracy")
            further = evaluation.get("also", {}).get(name, {}).get("samples", "?")
            yield f"Clean; {further} images of {name}", key
        elif key not in known:
            yield f"{COLUMNS[key].removesuffix(' %').capitalize()}; {images}", key


@dataclass(frozen=True)
class Check:
    """One look at whether an attack did its work: a sign that it did not is a warning of the evaluation."""

    name: str
    passed: bool
    text: str


def checks(evaluation: Mapping[str, Any], name: str) -> list[Check]:
    """The looks for hidden gradients that an evaluation of the model `name` took, in words."""
    model, samples, attack = evaluation["models"][name], evaluation["samples"], evaluation["attack"]
    if attack is None:
        return []
    warned = {text.partition(":")[0]: text.partition(":")[2].strip() for text in model.get("warnings", [])}
    seen = dict(_seen(model, samples, attack))
    found = [Check(title, title not in warned, warned.get(title, text)) for title, text in seen.items()]
    return found + [Check(title, False, text) for title, text in warned.items() if title not in seen]


def _seen(model: Mapping[str, Any], samples: int, attack: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an attack that does its work shows: by the names that its warnings have."""
    robust = model.get("robust_accuracy")
    probe = model.get("masking")
    if probe and probe["images"]:
        gains = [noisy - guided for noisy, guided in zip(probe["noise"], probe["pgd"], strict=True)]
        most = max(range(len(gains)), key=gains.__getitem__)
        yield (
            "steps",
            f"at eps {probe['radii'][most]:.3g}, {probe['steps']} steps along the gradient fool {gains[most]} of "
            f"{probe['images']} images that random noise does not: the gradient shows the way",
        )
        yield (
            "large eps",
            f"at eps {probe['radii'][-1]:.3g}, where no model can be robust, PGD leaves {probe['pgd'][-1]} of "
            f"{probe['images']} images right: what is there is found",
        )
    stages = model.get("pgd_by_restart") or model.get("robust_by_restart") or []
    if len(stages) > 1:
        lost = 100 * (stages[-2] - stages[-1])
        yield "restarts", f"the last of {len(stages)} random starts fooled {lost:.1f} % more: further ones add little"
    if model.get("noise_accuracy") is not None and robust is not None:
        noise = f"noise alone leaves {100 * model['noise_accuracy']:.1f} % right, the attack {100 * robust:.1f} %"
        yield "noise", f"{noise}: chance finds nothing that the attack misses"
    if model.get("transfer_accuracy") is not None and robust is not None:
        yield "transfer", f"images made on another model leave {100 * model['transfer_accuracy']:.1f} % right"
    if model.get("pgd_accuracy") is not None and robust is not None:
        gap = 100 * (model["pgd_accuracy"] - robust)
        yield "autoattack", f"it lies {gap:.1f} points below PGD: the two agree as they do on sound models"
