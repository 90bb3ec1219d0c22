"""What a report shows of one run: what the run left in its folder, and what is measured for the report alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView, usual_step_size
from act_engine.config import Config
from act_engine.evaluation import PGDAttack, adversarial_images, evaluate, sample_images
from act_engine.parallel import World
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress
from act_engine.runs.evaluations import evaluations
from act_engine.runs.folder import ENVIRONMENT, METRICS, PROFILE, digest, evaluation_file, measured_once
from act_engine.runs.load import load_run
from act_engine.runs.methods import deployed_model
from act_engine.runs.reading import read_json, read_records

EPS_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Radii at which robust accuracy is measured, relative to the evaluation's: a sound attack reaches 0 in the end."""
STEPS = (1, 2, 5, 10, 20, 50, 100)
EPS_STEPS = 20
"""Iterations at every radius, and for the adversarial images that are shown."""
EXAMPLES = 8


@dataclass(frozen=True)
class Examples:
    """Some test images of a run: spread evenly over those measured, not the prettiest."""

    images: Tensor
    """Clean [B, C, H, W], float in [0, 1], on the host; `adversarial` likewise."""
    adversarial: Tensor
    labels: list[int]
    clean_predictions: list[tuple[int, float]]
    """Class and its probability, of each clean image; `adversarial_predictions` likewise."""
    adversarial_predictions: list[tuple[int, float]]
    attack: PGDAttack


@dataclass(frozen=True)
class MeasuredRun:
    """A run and everything that a report says of it."""

    name: str
    model: str
    """The deployed one of its models, which the sweeps and examples are of."""
    config: Config
    evaluation: dict[str, Any]
    evaluations: list[dict[str, Any]]
    """Every one of the same weights; `evaluation`, the newest full one, is the first."""
    metrics: list[dict[str, float]]
    profile: dict[str, Any] | None
    environment: dict[str, Any]
    sweeps: dict[str, Any]
    """``eps`` and ``steps``: rows of ``at`` and ``right``, of ``samples`` images."""
    examples: Examples


def measure_run(
    folder: Path, world: World, samples: int, *, checkpoint: str = "best", progress: Kind = "none"
) -> MeasuredRun:
    """Read a finished run, and measure its deployed model's robust accuracy against eps and against steps.

    On `samples` test images, spread evenly; kept in the run's folder, in ``report/``.

    Raises:
        ValueError: the folder holds no run, or one that has not come to its end.
    """
    run = load_run(folder, world, checkpoint=checkpoint)
    measured = evaluations(folder, checkpoint)
    if not measured:
        raise ValueError(
            f"{str(folder)!r}: the run has no whole {evaluation_file(checkpoint)}; make it with "
            f"act_engine.evaluate --checkpoint {checkpoint}"
        )
    name = deployed_model(list(run.models))
    model, config = run.models[name], run.config
    images, labels = sample_images(run.data.test, samples)
    attack = measured[0]["attack"]
    eps, norm = (attack["eps"], attack["norm"]) if attack else config.evaluate.ball(config.attack)

    def sweeps() -> dict[str, Any]:
        what = f"measuring {folder} against eps and steps:"
        total = len(images) * sum(_passes(eps))
        with shown_progress(progress, total, unit="attack step", what=what) as shown:
            return measure_sweeps(model, images, labels, eps, norm, config.train.seed, shown.advance)

    weights = digest(run.weights[name])
    key = {"weights": weights, "samples": samples, "eps": eps, "norm": norm, "factors": EPS_FACTORS, "steps": STEPS}
    attack = _pgd(eps, EPS_STEPS, norm)
    shown = torch.arange(EXAMPLES) * len(images) // EXAMPLES
    return MeasuredRun(
        name=folder.resolve().name,
        model=name,
        config=config,
        evaluation=measured[0],
        evaluations=measured,
        metrics=read_records(folder / METRICS),
        profile=_read(folder / PROFILE) if (folder / PROFILE).exists() else None,
        environment=_read(folder / ENVIRONMENT),
        sweeps=measured_once(folder / "report" / "sweeps.json", key, sweeps),
        examples=make_examples(model, images[shown], labels[shown], attack, config.train.seed),
    )


def measure_sweeps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    norm: str,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """How many of `images` [B, C, H, W] withstand PGD of one start: at several radii, and at `eps` for several steps.

    The step is 2.5 · eps / steps throughout. `advance` is told how many of the images' attack steps are done.
    """

    def right(attack: PGDAttack | None) -> int:
        batches = zip(images.split(500), labels.split(500), strict=True)
        steps = 1 if attack is None else attack.steps
        measured = evaluate(
            model,
            batches,
            attack=attack,
            seed=seed,
            total=len(images),
            on_batch=lambda count: advance(count * steps),
        )
        return measured.clean if attack is None else measured.robust

    radii = [factor * eps for factor in EPS_FACTORS]
    clean = right(None)
    at_radii = [clean if not radius else right(_pgd(radius, EPS_STEPS, norm)) for radius in radii]
    at_steps = [right(_pgd(eps, steps, norm)) if eps else clean for steps in STEPS]
    rows = {"eps": zip(radii, at_radii, strict=True), "steps": zip(STEPS, at_steps, strict=True)}
    return {
        "samples": len(images),
        **{kind: [{"at": at, "right": count} for at, count in row] for kind, row in rows.items()},
    }


def _passes(eps: float) -> list[int]:
    """Attack steps an image that each of the sweeps' measurements takes."""
    return [1, *(EPS_STEPS for factor in EPS_FACTORS if factor * eps), *(STEPS if eps else ())]


def make_examples(model: nn.Module, images: Tensor, labels: Tensor, attack: PGDAttack, seed: int) -> Examples:
    """Adversarial images of all `images` [B, C, H, W], right or wrong, and what the model says of both."""
    adversarial = adversarial_images(model, images, labels, attack, seed=seed)
    view = AttackView(model)

    def predictions(these: Tensor) -> list[tuple[int, float]]:
        with torch.no_grad():
            probability, label = view(these).softmax(1).max(1)
        return list(zip(label.tolist(), probability.tolist(), strict=True))

    clean, fooled = predictions(images), predictions(adversarial)
    return Examples(images.cpu(), adversarial.cpu(), labels.tolist(), clean, fooled, attack)


def _pgd(eps: float, steps: int, norm: str) -> PGDAttack:
    return PGDAttack(eps, usual_step_size(eps, steps), steps, restarts=1, norm=norm)


def _read(path: Path) -> dict[str, Any]:
    return read_json(path)
