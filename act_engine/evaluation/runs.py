"""Evaluating the models of a run: reading them back, attacking as its config says, the result as JSON and table."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from act_engine.config import AttackConfig, Config, EvaluateConfig
from act_engine.data import Data, Loader, build_data
from act_engine.evaluation.accuracy import PGDAttack, evaluate
from act_engine.models import build_model, load_weights
from act_engine.parallel import World
from act_engine.runfolder import read_config


@dataclass(frozen=True)
class Run:
    """A finished run: its resolved config, its models by name, and its data."""

    config: Config
    models: dict[str, nn.Module]
    data: Data


def load_run(folder: Path, world: World, eval_batch_size: int | None = None) -> Run:
    """Read a run back from its folder: every model that it exported, in eval mode, and this process's part of its data.

    Raises:
        ValueError: the folder holds no run, or one that has not come to its end.
    """
    config = read_config(folder)
    batch_size = eval_batch_size or config.evaluate.batch_size
    data = build_data(
        **vars(config.data),
        eval_batch_size=batch_size,
        seed=config.train.seed,
        device=world.device,
        rank=world.rank,
        world_size=world.size,
    )
    models = {}
    for name in ("robust", "natural"):
        weights = folder / f"{name}.safetensors"
        if weights.exists():
            model = build_model(**config.model.architecture(name), image_shape=data.image_shape)
            load_weights(model, weights)
            models[name] = model.to(world.device).eval()
    if not models:
        raise ValueError(
            f"{str(folder)!r}: the run has exported no weights yet; start it again with the same --output to end it"
        )
    return Run(config, models, data)


def evaluate_models(
    models: Mapping[str, nn.Module],
    loader: Loader,
    attack: AttackConfig,
    settings: EvaluateConfig,
    *,
    seed: int,
    world: World,
    on_batch: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    """The content of evaluation.json: the models, by name, on every image of a test loader.

    Each process measures its part of the images; all of them call this together and get the same result.
    """
    pgd = None
    if settings.attack == "pgd":
        eps = attack.eps if settings.eps is None else settings.eps
        step_size = 2.5 * eps / settings.steps if settings.step_size is None else settings.step_size
        pgd = PGDAttack(eps, step_size, settings.steps, settings.restarts, attack.norm)
    result: dict[str, Any] = {}
    for name, model in models.items():
        measured = evaluate(
            model,
            loader.epoch(0),
            attack=pgd,
            seed=seed,
            first=world.rank * loader.num_samples // world.size,
            total=loader.num_samples,
            sum_over_ranks=world.total,
            on_batch=on_batch,
        )
        result[name] = {"clean_accuracy": measured.clean_accuracy, "robust_accuracy": measured.robust_accuracy}
    described = {"name": "pgd", "loss": "ce", "start": "uniform", **asdict(pgd)} if pgd else None
    return {"models": result, "attack": described, "samples": loader.num_samples, "seed": seed}


def format_table(evaluation: Mapping[str, Any]) -> str:
    """An evaluation as a small table for the terminal."""
    attack = evaluation["attack"]
    lines = [f"{'model':<10}{'clean %':>9}{'robust %':>10}"]
    for name, accuracy in evaluation["models"].items():
        robust = accuracy["robust_accuracy"]
        shown = "–" if robust is None else f"{100 * robust:.1f}"
        lines.append(f"{name:<10}{100 * accuracy['clean_accuracy']:>9.1f}{shown:>10}")
    described = f"{evaluation['samples']} test images"
    if attack:
        restarts = f"{attack['restarts']} random start{'s' if attack['restarts'] > 1 else ''}, worst case"
        described += f"; robust: PGD-{attack['steps']} (cross-entropy, {attack['norm']}, eps {attack['eps']:.4g}, "
        described += f"step {attack['step_size']:.3g}), {restarts}"
    return "\n".join([*lines, described])
