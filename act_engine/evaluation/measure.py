"""Measuring models as a config says, clean and under attack, with the result as JSON."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from act_engine.attack import AttackView
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data import Loader
from act_engine.evaluation.accuracy import Accuracy, evaluate
from act_engine.evaluation.attacks import EvaluationAttack, PGDAttack, RandomNoise, Transfer
from act_engine.evaluation.autoattack import MIN_CLASSES, AutoAttack, import_autoattack
from act_engine.evaluation.interval import wilson
from act_engine.evaluation.losses import NEEDS_CLASSES
from act_engine.evaluation.masking import RadiiProbe, signs_of_masking
from act_engine.evaluation.subset import spread
from act_engine.parallel import World


def check_evaluation(settings: EvaluateConfig, num_classes: int) -> None:
    """Refuse an evaluation that the number of classes, or what is installed, does not allow.

    Raises:
        ValueError: naming the setting.
    """
    if settings.attack == "none":
        return
    needed = NEEDS_CLASSES[settings.loss] + (settings.loss == "dlr" and settings.targets > 0)
    if num_classes < needed:
        raise ValueError(f"evaluate.loss: got {settings.loss!r} with {num_classes} classes; it needs {needed} or more")
    if settings.targets > num_classes - 1:
        raise ValueError(
            f"evaluate.targets: got {settings.targets}; allowed with {num_classes} classes: 0 to {num_classes - 1}"
        )
    if settings.attack == "autoattack":
        import_autoattack()
        if num_classes < MIN_CLASSES:
            raise ValueError(
                f"evaluate.attack: got 'autoattack' with {num_classes} classes; it needs {MIN_CLASSES} or more: use pgd"
            )


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
    whole: bool = False,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """The content of evaluation.json: the models, by name, on every image of a test loader.

    Each process measures its part of the images; all of them call this together and get the same result.

    Args:
        attack: the training's, for what `settings` leave to it.
        seed: of the random starts.
        source: a model to make transferred attacks on; None: no such attack.
        state: folder in which AutoAttack keeps what it has done; None: it keeps nothing.
        whole: `loader` gives all images on every process, of which each takes its share in whole batches: AutoAttack's
            result is then the same for any number of processes.
    """
    eps, norm = settings.ball(attack)
    step_size = 2.5 * eps / settings.steps if settings.step_size is None else settings.step_size
    pgd = PGDAttack(eps, step_size, settings.steps, settings.restarts, norm, settings.loss, settings.targets)
    share = _Share(loader, settings.images, world, whole)
    attacked = settings.attack != "none"
    controls: dict[str, EvaluationAttack] = {}
    probe = None
    if attacked:
        noise = RandomNoise(eps, norm)
        controls["noise"] = noise
        if settings.check_masking and eps > 0:
            probe = RadiiProbe(eps, norm, _diameter(loader, norm))
            controls["masking"] = probe
    if source is not None:
        controls["transfer"] = Transfer(AttackView(source), pgd)
    result: dict[str, Any] = {}
    for name, model in models.items():
        main: EvaluationAttack | None = pgd if attacked else None
        if settings.attack == "autoattack":
            controls["pgd"] = pgd
            main = AutoAttack(model, eps, norm, settings.version, state, name)
        measured = evaluate(
            model,
            share.batches(),
            attack=main,
            controls=controls,
            seed=seed,
            first=share.first,
            total=share.total,
            sum_over_ranks=world.total,
            on_batch=on_batch,
        )
        result[name] = _describe(measured, main, probe)
    evaluation = {"models": result, "attack": None, "samples": share.total, "seed": seed}
    if attacked:
        described = {"name": "pgd", "start": "uniform", **asdict(pgd)}
        if settings.attack == "autoattack":
            described = {"name": "autoattack", "version": settings.version, "eps": eps, "norm": norm, "pgd": described}
        evaluation |= {"attack": described, "noise_draws": noise.draws}
    return evaluation


class _Share:
    """This process's part of the images to measure: where it begins, of how many in all, and its batches."""

    def __init__(self, loader: Loader, images: int | None, world: World, whole: bool) -> None:
        self._loader, self._whole = loader, whole
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
        batches = self._loader.epoch(0)
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


def _diameter(loader: Loader, norm: str) -> float:
    """The radius of a ball around any image that holds every image."""
    if norm == "linf":
        return 1.0
    images, _ = next(loader.epoch(0))
    return math.sqrt(images[0].numel())


def _describe(measured: Accuracy, attack: EvaluationAttack | None, probe: RadiiProbe | None) -> dict[str, Any]:
    """One model's entry of evaluation.json."""
    samples = measured.samples
    counts = {name: sum(right) for name, right in measured.right.items() if name != "masking"}
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
    name = "AutoAttack" if isinstance(attack, AutoAttack) else "PGD"
    names = {"robust": name, "pgd": "PGD", "noise": "random noise", "transfer": "the transferred attack"}
    entry["warnings"] = signs_of_masking(measured, probe, names)
    if isinstance(attack, AutoAttack):
        entry["warnings"] += [f"autoattack: {text}" for text in attack.warnings]
    return entry
