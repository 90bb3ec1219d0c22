"""What RobustBench's leaderboard asks for of a model: its claim as JSON, its weights with a loader, a model card.

The claim has the keys and the place, ``model_info/DATASET/NORM/NAME.json``, of RobustBench's own ``benchmark(…,
to_disk=True)``; what this engine cannot know of a paper (link, title, authors, venue) stays null there as well.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from act_engine import __version__
from act_engine.config import Config, EvaluateConfig
from act_engine.evaluation.autoattack import NORMS, library_version
from act_engine.models import describe_model
from act_engine.runs.folder import digest, write_text
from act_engine.training.checkpoint import export_weights

FOLDER = "robustbench"
WEIGHTS, LOADER, CARD = "model.safetensors", "load.py", "README.md"
DATASETS = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
"""Those of its leaderboards, and on how many images it measures."""


def check_export(kind: str | None, settings: EvaluateConfig, norm: str, name: str) -> None:
    """Refuse an evaluation that gives no claim for a leaderboard, before it is made.

    Raises:
        ValueError: naming the setting.
    """
    if kind is None:
        return
    if settings.attack != "autoattack" or settings.version != "standard":
        got = settings.attack if settings.attack != "autoattack" else f"autoattack {settings.version}"
        raise ValueError(f"evaluate.attack: got {got!r}; allowed with --export {kind}: autoattack, in version standard")
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
        raise ValueError(f"--export_name: got {name!r}; allowed: letters, digits, -, _, + and ., as of a file's name")
    if norm not in ("linf", "l2"):
        raise ValueError(f"evaluate.norm: got {norm!r}; allowed with --export {kind}: linf, l2")


def export_robustbench(
    folder: Path,
    model: nn.Module,
    evaluation: Mapping[str, Any],
    config: Config,
    *,
    name: str,
    model_name: str,
    image_shape: tuple[int, int, int],
    trained: str | None,
) -> Path:
    """Write ``folder/robustbench/``: the claim, the weights, three lines that load them, and a model card, its path.

    Args:
        model: as it was measured.
        evaluation: the content of evaluation.json; by AutoAttack.
        config: whose model and data it is, with the number of classes.
        name: of the claim; RobustBench's are called FirstauthorYearFirstword.
        model_name: of the model in `evaluation`, which ``config.model`` describes by ``"robust"`` or that name.
        trained: how, in a sentence, as far as it is known.

    Raises:
        OSError: a file could not be written.
    """
    place = folder / FOLDER
    attack, entry = evaluation["attack"], evaluation["models"][model_name]
    dataset = _dataset(config.data.name, config.model.num_classes)
    architecture = config.model.architecture(model_name)
    claim = {
        "link": None,
        "name": None,
        "authors": None,
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": None,
        "architecture": readable(architecture["name"]),
        "eps": radius(attack["eps"], attack["norm"]),
        "clean_acc": _percent(entry["clean_accuracy"]),
        "reported": _percent(entry["robust_accuracy"]),
        "autoattack_acc": _percent(entry["robust_accuracy"]),
    }
    info = place / "model_info" / dataset / NORMS[attack["norm"]] / f"{name}.json"
    info.parent.mkdir(parents=True, exist_ok=True)
    write_text(info, json.dumps(claim, indent=2) + "\n")
    export_weights(place / WEIGHTS, model.state_dict(), describe_model(**architecture, image_shape=image_shape))
    factory = _copy_factory(architecture["name"], place)
    loader = f'from act_engine import load_model\n\nmodel = load_model("{WEIGHTS}"{factory})\n'
    write_text(place / LOADER, loader)
    facts = {
        "Architecture": f"{claim['architecture']}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "Images": f"{'×'.join(map(str, image_shape))}, in [0, 1]; where they are normalised, the model does it",
        "Training": trained or "not known here",
        "Weights": f"`{WEIGHTS}`, SHA-256 {digest(place / WEIGHTS)}",
    }
    write_text(place / CARD, _card(name, claim, evaluation, entry, facts, loader, str(info.relative_to(place))))
    return place / CARD


def readable(architecture: str) -> str:
    """The customary name of one of this package's architectures, such as WideResNet-28-10; others as they are."""
    wide = re.fullmatch(r"(?:cifar|robustbench)_(ra_)?wrn(\d+)_(\d+)", architecture)
    if wide:
        return f"{'Ra' if wide[1] else ''}WideResNet-{wide[2]}-{wide[3]}"
    known = {"preact_resnet18": "PreActResNet-18", "resnet18": "ResNet-18"}
    return known.get(re.sub("^(cifar|robustbench)_", "", architecture), architecture)


def radius(eps: float, norm: str) -> str:
    """A radius as leaderboards write it: of linf ``8/255`` where it is whole 255ths, else a decimal."""
    whole = round(255 * eps)
    return f"{whole}/255" if norm == "linf" and abs(255 * eps - whole) < 1e-6 else f"{eps:g}"


def _dataset(name: str, classes: int) -> str:
    return "imagenet" if name in ("image_folder", "webdataset") and classes == 1000 else name


def _percent(share: float) -> str:
    return str(round(100 * share, 2))


def _copy_factory(name: str, place: Path) -> str:
    """The argument that names a user's own class or function; its file, where it is one here, goes along."""
    if ":" not in name:
        return ""
    file = inspect.getsourcefile(import_module(name.partition(":")[0]))
    if file is not None and Path(file).parent == Path.cwd():
        shutil.copyfile(file, place / Path(file).name)
    return f', factory="{name}"'


def _card(
    name: str,
    claim: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    entry: Mapping[str, Any],
    facts: Mapping[str, str],
    loader: str,
    info: str,
) -> str:
    norm, eps = NORMS[evaluation["attack"]["norm"]], claim["eps"]
    low, high = (f"{100 * bound:.2f}" for bound in entry["intervals"]["robust_accuracy"])
    rows = {
        **facts,
        "Data set": claim["dataset"],
        "Threat model": f"{norm}, eps {eps}",
        "Clean accuracy": f"{claim['clean_acc']} %",
        "Robust accuracy": f"{claim['autoattack_acc']} % (95 % interval {low} to {high})",
        "Evaluation method": f"AutoAttack standard, {evaluation['samples']:,} test images",
        "Measured with": f"act_engine {__version__}, pyautoattack {library_version()}",
    }
    missing = ", ".join(key for key, value in claim.items() if value is None)
    left = [f"`{info}`: fill in {missing}."]
    if claim["dataset"] not in DATASETS:
        left.append(f"Its leaderboards are for {', '.join(DATASETS)}; there is none for {claim['dataset']}.")
    if evaluation["samples"] < DATASETS.get(claim["dataset"], 0):
        count = DATASETS[claim["dataset"]]
        left.append(f"It measures on {count:,} images; this claim is on {evaluation['samples']:,}.")
    left += [f"Warning of the evaluation: {text}." for text in entry["warnings"]]
    benchmark = f'benchmark(model, dataset="{claim["dataset"]}", threat_model="{norm}", eps={eps}, model_name="{name}")'
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    points = "\n".join(f"- {text}" for text in left)
    return f"""# {name}

| | |
| --- | --- |
{table}

## Load it

```python
{loader.strip()}
```

## Check it with RobustBench

```python
from robustbench import benchmark

{benchmark}
```

## Hand it in, by the issue "New Model(s)" of github.com/RobustBench/robustbench

{points}
"""
