"""The three analyses of whole runs: each run measured and kept in its folder, then set side by side by method."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from act_engine.analysis.complexity import fit_noise, measure_norms
from act_engine.analysis.compression import measure_compression
from act_engine.analysis.flatness import measure_flatness
from act_engine.attack import usual_step_size
from act_engine.config import AnalysisConfig, Config
from act_engine.evaluation import PGDAttack, adversarial_images, sample_images
from act_engine.parallel import World
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress
from act_engine.runs.folder import digest, measured_once
from act_engine.runs.load import Run, load_run
from act_engine.runs.methods import deployed_model, group_by_method, over_seeds

PGD_STEPS = 20
"""Of the attack that makes the adversarial images, in the ball that the run's evaluation has."""


def analyze_runs(
    folders: Sequence[Path],
    settings: AnalysisConfig,
    world: World,
    *,
    checkpoint: str = "best",
    progress: Kind = "none",
) -> dict[str, Any]:
    """The analyses of several runs, grouped by method: JSON values, which `reporting.analysis` shows.

    Each run's own are kept in its folder, in ``analysis/``, and measured again only if settings or weights are others.

    Raises:
        ValueError: a folder holds no finished run, or one that an analysis is not defined for.
    """
    runs = [load_run(folder, world, checkpoint=checkpoint) for folder in folders]
    total = len(runs) * len(settings.analyses)
    with shown_progress(progress, total, unit="analysis", units="analyses", what="measuring") as shown:
        results = [analyze(folder, run, settings, shown.advance) for folder, run in zip(folders, runs, strict=True)]
    methods = {}
    for label, places in group_by_method([run.config for run in runs]).items():
        chosen = [results[place] for place in places]
        methods[label] = {
            "runs": [str(folders[place]) for place in places],
            "seeds": [runs[place].config.train.seed for place in places],
            "values": chosen,
            "mean": over_seeds(chosen, "mean"),
            "deviation": over_seeds(chosen, "deviation"),
        }
    return {"settings": asdict(settings), "protocol": "a reading of the paper's claims", "methods": methods}


def analyze(
    folder: Path, run: Run, settings: AnalysisConfig, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The analyses of one run's deployed model, by name; `advance` is called after each."""
    name = deployed_model(list(run.models))
    model = run.models[name]
    weights = digest(run.weights[name])
    images, labels = sample_images(run.data.test, settings.samples)
    config, device = run.config, images.device.type
    eps, norm = config.evaluate.ball(config.attack)

    def complexity() -> dict[str, Any]:
        noise = [_fit_noise(config, device, folder, label_noise, settings) for label_noise in settings.noise]
        return {"noise": noise, "norms": asdict(measure_norms(model, images, labels))}

    def compression() -> dict[str, Any]:
        return asdict(measure_compression(model, images, draws=settings.draws, seed=settings.seed))

    def flatness() -> dict[str, Any]:
        attack = PGDAttack(eps, usual_step_size(eps, PGD_STEPS), PGD_STEPS, 1, norm)
        adversarial = adversarial_images(model, images, labels, attack, seed=settings.seed)
        how = {"sigmas": settings.sigmas, "draws": settings.draws, "seed": settings.seed}
        kinds = {"clean": images, "adversarial": adversarial}
        return {kind: asdict(measure_flatness(model, these, labels, **how)) for kind, these in kinds.items()}

    measures = {"complexity": complexity, "compression": compression, "flatness": flatness}
    used = {
        "complexity": ("noise", "classes", "epochs"),
        "compression": ("draws", "seed"),
        "flatness": ("sigmas", "draws", "seed"),
    }
    ball = {"flatness": {"eps": eps, "norm": norm}}
    result = {}
    for analysis in settings.analyses:
        key = {"weights": weights, **ball.get(analysis, {})}
        key |= {name: getattr(settings, name) for name in ("samples", *used[analysis])}
        result[analysis] = measured_once(folder / "analysis" / f"{analysis}.json", key, measures[analysis])
        advance()
    return result


def _fit_noise(
    config: Config, device: str, folder: Path, label_noise: float, settings: AnalysisConfig
) -> dict[str, Any]:
    """In this one process and on this device, wherever the run itself was made."""
    classes, epochs = settings.classes, settings.epochs
    config = replace(
        config,
        train=replace(config.train, device=device),
        parallel=replace(
            config.parallel, strategy="auto", sync_batchnorm=False, deepspeed_config=None, shard_size=None
        ),
    )
    name = f"noise-{label_noise:g}-classes-{classes or 'all'}-epochs-{epochs or config.train.epochs}"
    place = folder / "analysis" / name
    return asdict(fit_noise(config, place, label_noise=label_noise, classes=classes, epochs=epochs))
