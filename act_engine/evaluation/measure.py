"""Measuring models as a config says, clean and under attack, with the result as JSON."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from act_engine.attack import AttackView, diameter, require_within, usual_step_size
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data import Loader, identity
from act_engine.evaluation.accuracy import Accuracy, evaluate
from act_engine.evaluation.attacks import NORMS, EvaluationAttack, PGDAttack, RandomNoise, Transfer
from act_engine.evaluation.autoattack import AutoAttack, import_autoattack
from act_engine.evaluation.corruptions import SEVERITIES, Corruption, corruptions_named
from act_engine.evaluation.interval import wilson
from act_engine.evaluation.kept import Kept, weights
from act_engine.evaluation.losses import NEEDS_CLASSES
from act_engine.evaluation.masking import RadiiProbe, signs_of_masking
from act_engine.evaluation.premises import once_each
from act_engine.evaluation.subset import spread
from act_engine.evaluation.table import NAMES, ON
from act_engine.models import Among
from act_engine.parallel import World

CORRUPTED = "corrupted by "
"""Before the name of a corruption, among the names of what is measured."""


def check_evaluation(settings: EvaluateConfig, num_classes: int, channels: int = 3) -> None:
    """Refuse an evaluation that the number of classes, or of the images' channels, or what is installed, forbids.

    Raises:
        ValueError: naming the setting.
    """
    corruptions_named(settings.corruptions, channels)
    if settings.attack == "none":
        return
    needed = NEEDS_CLASSES[settings.loss] + (settings.loss == "dlr" and settings.targets > 0)
    if num_classes < needed:
        raise ValueError(f"evaluate.loss: got {settings.loss!r} with {num_classes} classes; it needs {needed} or more")
    if settings.targets > num_classes - 1:
        raise ValueError(
            f"evaluate.targets: got {settings.targets}; allowed with {num_classes} classes: 0 to {num_classes - 1}"
        )
    if settings.by_library:
        import_autoattack()


def evaluate_models(
    models: Mapping[str, nn.Module],
    loader: Loader,
    attack: AttackConfig,
    settings: EvaluateConfig,
    *,
    seed: int,
    world: World,
    source: nn.Module | None = None,
    state: Path | None = None,
    again: bool = False,
    whole: bool = False,
    further: Mapping[str, Loader] | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """The content of evaluation.json: the models, by name, on every image of a test loader.

    Each process measures its part of the images; all of them call this together and get the same result.

    Args:
        attack: the training's, for what `settings` leave to it.
        seed: of the random starts.
        source: a model to make transferred attacks on; None: no such attack.
        state: folder in which the attacks keep what they have done, batch by batch, so that the same evaluation goes on
            where it was interrupted and measures nothing twice; None: they keep nothing.
        again: measure anew what is kept there.
        whole: `loader` gives all images on every process, of which each takes its share in whole batches: AutoAttack's
            result is then the same for any number of processes.
        further: test sets by name, on which clean accuracy is measured too; they are given as `loader` is.
    """
    eps, norm = settings.ball(attack)
    step_size = usual_step_size(eps, settings.steps) if settings.step_size is None else settings.step_size
    share = _Share(loader, settings.images, world, whole)
    attacked = settings.attack != "none"
    ours = norm in NORMS  # or the library's alone
    shape = () if norm == "linf" and not settings.corruptions else _image_shape(loader)
    with world.together():
        for each in (loader, *(further or {}).values()):
            _present(each, settings)
        kinds = corruptions_named(settings.corruptions, shape[0] if shape else 3)
        if attacked and shape and norm != "linf":
            require_within("eps", eps, norm, shape)
    pgd, noise, probe = None, None, None
    if ours:
        pgd = PGDAttack(eps, step_size, settings.steps, settings.restarts, norm, settings.loss, settings.targets)
        noise = RandomNoise(eps, norm)
    elif source is not None:
        raise ValueError(f"--source: got a run to transfer from, with norm {norm!r}; allowed: with linf or l2")
    if attacked and ours and settings.check_masking and eps > 0:
        probe = RadiiProbe(eps, norm, diameter(norm, shape), loss=settings.loss)
    viewed = None if source is None else AttackView(source)
    result: dict[str, Any] = {}
    for name, bare in models.items():
        model = _among(bare, loader, settings)
        attacks: dict[str, EvaluationAttack] = {}
        if attacked and ours:
            attacks = {"robust": pgd, "noise": noise} | ({} if probe is None else {"masking": probe})
        if viewed is not None:
            attacks["transfer"] = Transfer(viewed, pgd)
        if settings.by_library:
            named = None if settings.attack == "autoattack" else (settings.attack,)
            attacks["robust"] = AutoAttack(model, eps, norm, settings.version, named)
            attacks |= {"pgd": pgd} if ours else {}
        attacks |= {CORRUPTED + kind: Corruption(kind) for kind in kinds}
        if state is not None:
            attacks = _kept(attacks, model, source, state / name, again)
        measured = evaluate(
            model,
            share.batches(),
            attack=attacks.pop("robust", None),
            controls=attacks,
            seed=seed,
            first=share.first,
            total=share.total,
            sum_over_ranks=world.total,
            together=world.together,
            on_batch=on_batch,
            on_call=world.progress,
            warn=lambda text: None,  # they stand in the result
        )
        if measured.samples != share.total:
            raise ValueError(f"loader: gave {measured.samples} images in a pass; allowed: {share.total}, as it says")
        result[name] = _describe(measured, settings.attack, probe, world)
        for other, there in (further or {}).items():
            _add_further(result[name], other, _among(bare, there, settings), there, world, whole)
    evaluation = {"models": result, "attack": None, "samples": share.total, **_question(models, settings, seed)}
    if further:
        evaluation["also"] = {
            name: {"path": path, "samples": loader.num_samples}
            for path, (name, loader) in zip(settings.also, further.items(), strict=True)
        }
    if attacked:
        described = {"name": "pgd", "start": "uniform", **asdict(pgd)} if ours else None
        if settings.by_library:
            library = {"name": settings.attack, "version": settings.version, "eps": eps, "norm": norm}
            described = library | {"pgd": described}
        evaluation |= {"attack": described, "noise_draws": noise.draws if ours else None}
    return evaluation


def answers_question(
    found: Mapping[str, Any], models: Mapping[str, nn.Module], settings: EvaluateConfig, seed: int
) -> bool:
    """Whether an evaluation that was read back is of these models, measured with these settings."""
    question = json.loads(json.dumps(_question(models, settings, seed)))
    same = all(found.get(name) == value for name, value in question.items())
    return same and found["models"].keys() == models.keys() and "source" not in found and "data_path" not in found


def _question(models: Mapping[str, nn.Module], settings: EvaluateConfig, seed: int) -> dict[str, Any]:
    """What an evaluation of a run's models was asked to measure."""
    return {
        "seed": seed,
        "settings": asdict(settings),
        "weights": {name: weights(model) for name, model in models.items()},
    }


def _kept(
    attacks: Mapping[str, EvaluationAttack], model: nn.Module, source: nn.Module | None, file: Path, again: bool
) -> dict[str, EvaluationAttack]:
    """The attacks, each of which keeps its results in files that begin with `file`."""
    models = {"weights": weights(model)}
    kept: dict[str, EvaluationAttack] = {}
    for name, attack in attacks.items():
        settings: dict[str, Any] = {"attack": type(attack).__name__, **models}
        others = ()
        if isinstance(attack, Transfer):
            settings |= {"source": weights(source), **asdict(attack.pgd)}
            others = (attack.source,)
        else:
            settings |= attack.settings if isinstance(attack, AutoAttack) else asdict(attack)
        kept[name] = Kept(attack, settings, file.with_name(f"{file.name}-{name}"), others, again)
    return kept


class _Share:
    """This process's part of the images to measure: where it begins, of how many in all, and its batches."""

    def __init__(self, loader: Loader, images: int | None, world: World, whole: bool) -> None:
        self._loader, self._whole, self._progress = loader, whole, world.progress
        self.total = min(images or loader.num_samples, loader.num_samples)
        self._begins = 0 if whole else world.rank * loader.num_samples // world.size
        if whole:  # every process reads all, and measures a run of whole batches
            count = math.ceil(self.total / loader.batch_size)
            self._batches = range(world.rank * count // world.size, (world.rank + 1) * count // world.size)
            self.first = self._batches.start * loader.batch_size
        else:
            self.first = self._begins * self.total // loader.num_samples

    def batches(self):
        """The batches, anew at each call."""
        batches = self._read()
        if self.total < self._loader.num_samples:
            batches = spread(
                batches,
                first=self._begins,
                wanted=self.total,
                total=self._loader.num_samples,
                batch_size=self._loader.batch_size,
            )
        if not self._whole:
            return batches
        return (batch for index, batch in enumerate(batches) if index in self._batches)

    def _read(self):
        for batch in self._loader.epoch(0):
            self._progress()
            yield batch


def _image_shape(loader: Loader) -> tuple[int, ...]:
    """(C, H, W) of a test loader's images; empty on a process that holds none."""
    first = next(loader.epoch(0), None)
    return () if first is None else tuple(first[0].shape[1:])


def _present(loader: Loader, settings: EvaluateConfig) -> list[int] | None:
    """The classes of which a test set has images, if a model is to choose among these alone; None: among all."""
    if settings.among == "all":
        return None
    found = identity(loader)
    if found is None:
        raise ValueError("evaluate.among: got 'present'; allowed with batches of your own: all")
    return [label for label, count in enumerate(found["counts"]) if count]


def _among(model: nn.Module, loader: Loader, settings: EvaluateConfig) -> nn.Module:
    """The model as it is measured on a test set."""
    present = _present(loader, settings)
    device = next((tensor.device for tensor in model.parameters()), None)
    return model if present is None else Among(model, present).to(device).eval()


def _add_further(entry: dict[str, Any], name: str, model: nn.Module, loader: Loader, world: World, whole: bool) -> None:
    """Measure clean accuracy on a further test set into a model's entry of evaluation.json; a collective."""
    share = _Share(loader, None, world, whole)
    measured = evaluate(
        model,
        share.batches(),
        attack=None,
        first=share.first,
        total=share.total,
        sum_over_ranks=world.total,
        together=world.together,
        warn=lambda text: None,
    )
    key = f"{ON}{name}_accuracy"
    entry[key] = measured.clean_accuracy
    entry["intervals"][key] = wilson(measured.clean, measured.samples)
    entry["warnings"] += [f"{name}: {text}" for text in _of_all_ranks(measured.warnings, world)]


def _describe(measured: Accuracy, attack: str, probe: RadiiProbe | None, world: World) -> dict[str, Any]:
    """One model's entry of evaluation.json; a collective."""
    samples = measured.samples
    hidden = ("masking", *(name for name in measured.right if name.startswith(CORRUPTED)))
    counts = {name: sum(right) for name, right in measured.right.items() if name not in hidden}
    entry: dict[str, Any] = {f"{name}_accuracy": count / samples for name, count in counts.items()}
    entry.setdefault("robust_accuracy", None)
    entry["intervals"] = {f"{name}_accuracy": wilson(count, samples) for name, count in counts.items()}
    entry["per_class"] = {
        f"{name}_accuracy": [
            right / images if images else None
            for right, images in zip(measured.right[name], measured.images, strict=True)
        ]
        for name in ("clean", "robust")
        if name in measured.right
    }
    for name in ("robust", "pgd"):
        if len(measured.stages.get(name, ())) > 1:
            entry[f"{name}_by_restart"] = [count / samples for count in measured.stages[name]]
    corrupted = {name: stages for name, stages in measured.stages.items() if name.startswith(CORRUPTED)}
    if corrupted:
        kinds = {name.removeprefix(CORRUPTED): [c / samples for c in stages] for name, stages in corrupted.items()}
        mean = sum(map(sum, kinds.values())) / (len(kinds) * SEVERITIES)
        entry |= {"corrupted_accuracy": mean, "corruptions": kinds}
        # An image's share of its corruptions lies in [0, 1], so its variance is at most that of a yes or no.
        entry["intervals"]["corrupted_accuracy"] = wilson(round(mean * samples), samples)
    if probe is not None:
        images, *rows = measured.stages["masking"]
        count = len(probe.radii)
        entry["masking"] = {
            "images": images,
            "radii": list(probe.radii),
            "noise": rows[:count],
            "pgd": rows[count:],
            "steps": probe.steps,
        }
    names = {"robust": NAMES.get(attack, "no attack"), "pgd": "PGD", "noise": "random noise"}
    names["transfer"] = "the transferred attack"
    entry["warnings"] = once_each(_of_all_ranks(measured.warnings, world))
    entry["warnings"] += signs_of_masking(measured, probe, names)
    return entry


def _of_all_ranks(texts: Sequence[str], world: World) -> list[str]:
    """The texts of every rank, in rank order."""
    given = json.dumps(list(texts)).encode()
    padded = torch.full((int(world.gather(torch.tensor([len(given)])).max()),), ord(" "), dtype=torch.uint8)
    padded[: len(given)] = torch.frombuffer(bytearray(given), dtype=torch.uint8)
    return [text for row in world.gather(padded) for text in json.loads(bytes(row.tolist()))]
