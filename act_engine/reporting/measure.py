"""What a report shows of one run: what the run left in its folder, and what is measured for the report alone."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from act_engine.attack import AttackView, usual_step_size
from act_engine.config import Config
from act_engine.evaluation import PGDAttack, adversarial_images, evaluate, sample_images
from act_engine.models.tensor_files import read_header
from act_engine.parallel import World
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress
from act_engine.runs.data import read_data
from act_engine.runs.evaluations import evaluations
from act_engine.runs.folder import ENVIRONMENT, METRICS, PROFILE, digest, evaluation_file, measured_once
from act_engine.runs.load import load_run
from act_engine.runs.methods import deployed_model
from act_engine.runs.reading import read_json, read_records
from act_engine.runs.writing import whole_file

EPS_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Radii at which robust accuracy is measured, relative to the evaluation's: a sound attack reaches 0 in the end."""
STEPS = (1, 2, 5, 10, 20, 50, 100)
EPS_STEPS = 20
"""Iterations at every radius, and for the adversarial images that are shown."""
EXAMPLES = 8


@dataclass(frozen=True)
class Examples:
    """What one model says of test images, clean and under attack, and some of the images."""

    labels: Tensor
    """[N], as are the classes and probabilities that the model gives to the clean and the adversarial images."""
    clean_class: Tensor
    clean_probability: Tensor
    adversarial_class: Tensor
    adversarial_probability: Tensor
    shown: Tensor
    """[E]: places, among the N, of `images` and `adversarial` [E, C, H, W], float in [0, 1]."""
    images: Tensor
    adversarial: Tensor


@dataclass(frozen=True)
class MeasuredRun:
    """A run and everything that a report says of it."""

    name: str
    model: str
    """The deployed one of its models, which the examples are of."""
    parameters: dict[str, int]
    """How many each of its models has, by name."""
    config: Config
    num_classes: int
    class_names: list[str] | None
    train_images: int | None
    evaluation: dict[str, Any]
    evaluations: list[dict[str, Any]]
    """Every one of the same weights; `evaluation`, the newest full one, is the first."""
    metrics: list[dict[str, float]]
    profile: dict[str, Any] | None
    environment: dict[str, Any]
    attack: PGDAttack | None
    """PGD with the evaluation's norm, radius and loss, which sweeps and examples are of; None: there is none (l1)."""
    sweeps: dict[str, dict[str, Any]]
    """By model: ``eps`` and ``steps``: rows of ``at`` and ``right``, of ``samples`` images."""
    examples: Examples | None

    def class_name(self, label: int) -> str:
        """What a class is called, or its number."""
        return str(label) if self.class_names is None else self.class_names[label]


def measure_run(
    folder: Path, world: World, samples: int, *, checkpoint: str = "best", progress: Kind = "none"
) -> MeasuredRun:
    """Read a finished run, and measure its models' robust accuracy against eps and against steps.

    On `samples` test images, spread evenly, with PGD in the ball that the run's evaluation has; kept in the run's
    folder, in ``report/``.

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
    config, seed = run.config, run.config.train.seed
    deployed = deployed_model(list(run.models))
    attack = _attack(measured[0]["attack"], config)
    images, labels = sample_images(run.data.test, samples)
    sweeps, examples = {}, None
    if attack is not None:
        weights = {name: digest(file) for name, file in run.weights.items()}
        key = {"samples": samples, **asdict(attack), "seed": seed}
        for name, model in run.models.items():

            def sweep(name: str = name, model: nn.Module = model) -> dict[str, Any]:
                what = f"measuring {folder}, {name} model, against eps and steps:"
                total = len(images) * sum(_passes(attack.eps))
                with shown_progress(progress, total, unit="attack step", what=what) as shown:
                    return measure_sweeps(model, images, labels, attack, seed, shown.advance)

            of = {**key, "weights": weights[name], "factors": EPS_FACTORS, "at_steps": STEPS}
            sweeps[name] = measured_once(folder / "report" / f"sweeps-{name}.json", of, sweep)
        examples = _examples_once(
            folder / "report" / "examples.safetensors",
            {**key, "weights": weights[deployed], "count": EXAMPLES},
            lambda: make_examples(run.models[deployed], images, labels, attack, seed),
        )
    recorded = read_data(folder, lambda message: None)
    return MeasuredRun(
        name=folder.resolve().name,
        model=deployed,
        parameters={name: sum(p.numel() for p in model.parameters()) for name, model in run.models.items()},
        config=config,
        num_classes=config.model.num_classes,
        class_names=recorded.get("test", {}).get("classes"),
        train_images=recorded.get("train", {}).get("images"),
        evaluation=measured[0],
        evaluations=measured,
        metrics=read_records(folder / METRICS),
        profile=read_json(folder / PROFILE) if (folder / PROFILE).exists() else None,
        environment=read_json(folder / ENVIRONMENT),
        attack=attack,
        sweeps=sweeps,
        examples=examples,
    )


def _attack(described: Mapping[str, Any] | None, config: Config) -> PGDAttack | None:
    """PGD of one start in the ball of an evaluation's attack, with the loss of its PGD."""
    eps, norm = config.evaluate.ball(config.attack)
    loss = config.evaluate.loss
    if described is not None:
        eps, norm = described["eps"], described["norm"]
        loss = (described.get("pgd") or described).get("loss", "ce")
    return None if norm == "l1" else _pgd(eps, EPS_STEPS, norm, loss)


def measure_sweeps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: PGDAttack,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, Any]:
    """How many of `images` [B, C, H, W] withstand PGD of one start: at several radii, and at the attack's for several
    steps; norm and loss are the attack's.

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

    eps, norm, loss = attack.eps, attack.norm, attack.loss
    radii = [factor * eps for factor in EPS_FACTORS]
    clean = right(None)
    at_radii = [clean if not radius else right(_pgd(radius, EPS_STEPS, norm, loss)) for radius in radii]
    at_steps = [right(_pgd(eps, steps, norm, loss)) if eps else clean for steps in STEPS]
    rows = {"eps": zip(radii, at_radii, strict=True), "steps": zip(STEPS, at_steps, strict=True)}
    return {
        "samples": len(images),
        **{kind: [{"at": at, "right": count} for at, count in row] for kind, row in rows.items()},
    }


def _passes(eps: float) -> list[int]:
    """Attack steps an image that each of the sweeps' measurements takes."""
    return [1, *(EPS_STEPS for factor in EPS_FACTORS if factor * eps), *(STEPS if eps else ())]


def make_examples(
    model: nn.Module, images: Tensor, labels: Tensor, attack: PGDAttack, seed: int, count: int = EXAMPLES
) -> Examples:
    """What the model says of all `images` [N, C, H, W] and of adversarial ones, and `count` of them to show.

    Half of those shown fool the model, half are withstood, where there are so many: each spread evenly over its kind.
    """
    adversarial = adversarial_images(model, images, labels, attack, seed=seed)
    view = AttackView(model)

    def predictions(these: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            answers = [view(part).softmax(1).max(1) for part in these.split(500)]
        probability, label = (torch.cat(parts).cpu() for parts in zip(*answers, strict=True))
        return label, probability.float()

    labels = labels.cpu()
    clean, adversarial_ = predictions(images), predictions(adversarial)
    shown = choose(labels, clean[0], adversarial_[0], count)
    return Examples(
        labels, *clean, *adversarial_, shown, images.cpu()[shown].contiguous(), adversarial.cpu()[shown].contiguous()
    )


def choose(labels: Tensor, clean: Tensor, adversarial: Tensor, count: int) -> Tensor:
    """Places of at most `count` images: as far as possible half of them fooled by the attack, then half that withstand.

    All of them are right when clean, if there are enough. [N] each.
    """
    right, held = clean == labels, adversarial == labels
    fooled, withstood = (kind.nonzero().flatten() for kind in (right & ~held, right & held))
    half = max(count // 2, count - len(withstood))
    fooled = _spread(fooled, min(half, len(fooled)))
    withstood = _spread(withstood, min(count - len(fooled), len(withstood)))
    rest = (~right).nonzero().flatten()
    return torch.cat([fooled, withstood, _spread(rest, min(count - len(fooled) - len(withstood), len(rest)))])


def _spread(places: Tensor, count: int) -> Tensor:
    return places[torch.arange(count) * len(places) // max(count, 1)]


def _examples_once(path: Path, key: Mapping[str, Any], make: Callable[[], Examples]) -> Examples:
    """The examples that were made for this key: out of `path`, if it holds those, or else written there."""
    of = json.dumps(key, sort_keys=True)
    try:
        if read_header(path)[0].get("of") == of:
            return Examples(**load_file(path))
    except (ValueError, TypeError):  # none, torn, or none of ours: they are made anew
        pass
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        save_file(vars(made), partial, {"of": of})
    return made


def _pgd(eps: float, steps: int, norm: str, loss: str) -> PGDAttack:
    return PGDAttack(eps, usual_step_size(eps, steps), steps, restarts=1, norm=norm, loss=loss)
