"""How robust a model of your own is, on batches of your own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from act_engine.config import AttackConfig, from_mapping
from act_engine.data import as_loader
from act_engine.errors import require
from act_engine.evaluation.autoattack import import_autoattack
from act_engine.evaluation.measure import evaluate_models
from act_engine.evaluation.table import format_table
from act_engine.parallel import connect
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress


@dataclass(frozen=True)
class Robustness:
    """What `robustness` measured; printed, it is the table of ``act_engine.evaluate``."""

    clean_accuracy: float
    """Share of the images that the model classifies correctly, in [0, 1]."""
    robust_accuracy: float | None
    """Share that it classifies correctly clean and under the attack, in [0, 1]; None for attack ``"none"``."""
    clean_interval: tuple[float, float]
    """95 % interval (Wilson's) of the clean accuracy; `robust_interval` likewise."""
    robust_interval: tuple[float, float] | None
    samples: int
    """Images that were measured."""
    warnings: tuple[str, ...]
    """Why the figures may not mean what they seem to mean, a sentence each; none in a sound measurement."""
    _evaluation: Mapping[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSON values of a run's evaluation.json, with the model under the name ``"model"``."""
        return dict(self._evaluation)

    def __str__(self) -> str:
        return format_table(self._evaluation)


def robustness(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    attack: str = "pgd",
    steps: int = 100,
    restarts: int = 5,
    step_size: float | None = None,
    loss: str = "ce",
    targets: int = 0,
    version: str = "standard",
    images: int | None = None,
    check_masking: bool = True,
    corruptions: Sequence[str] = (),
    seed: int = 0,
    progress: Kind | bool = "auto",
) -> Robustness:
    """Measure a model's accuracy, clean and under attack, as ``act_engine.evaluate`` does.

    Args:
        model: from images [B, C, H, W] in [0, 1] to logits [B, classes]; left as it is, measured in eval mode where it
            lies. A model that wants normalised images gets its normalisation as first layer: `act_engine.Normalize`.
        loader: an iterable of batches (images float in [0, 1] or uint8, labels int [B]), such as a DataLoader, that
            gives the same images in the same order at every pass; of several processes each gives all of them.
        eps, norm: the ball around an image, in [0, 1] pixel units; ``"linf"`` or ``"l2"``.
        attack: ``"pgd"``, ``"autoattack"``, one of its attacks by name, or ``"none"``.
        steps, restarts, step_size, loss, targets: of PGD; step_size None: 2.5 · eps / steps.
        version: of AutoAttack: ``"standard"``, ``"plus"`` or ``"rand"``.
        images: measure on so many images, spread evenly over the loader's; None: on all.
        check_masking: look for signs of gradient masking.
        corruptions: kinds of common corruption, or ``"all"``, whose accuracies are in ``to_dict()``.
        seed: of the random starts.
        progress: ``"bar"``, ``"lines"``, ``"none"``, or ``"auto"``: a bar on a terminal and lines elsewhere.

    Raises:
        ValueError: an argument, an image, a label or an output is not what it has to be; one line says what is allowed.
    """
    given = {
        "attack": attack,
        "version": version,
        "loss": loss,
        "targets": targets,
        "norm": norm,
        "steps": steps,
        "restarts": restarts,
        "eps": eps,
        "step_size": step_size,
        "images": images,
        "check_masking": check_masking,
        "corruptions": corruptions if isinstance(corruptions, str) else list(corruptions),
    }
    require(eps is not None and norm is not None, "eps, norm", (eps, norm), "a radius such as 8/255, and linf or l2")
    settings = from_mapping({"evaluate": given}).evaluate
    tensor = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    given = as_loader(loader, device=tensor.device)
    if settings.by_library:
        import_autoattack()
    world = connect(torch.device(tensor.device.type))
    total = min(images or given.num_samples, given.num_samples)
    with shown_progress(progress, total, unit="image", what="evaluating", shown=world.is_main) as bar:
        evaluation = evaluate_models(
            {"model": model},
            given,
            AttackConfig(eps=settings.eps, norm=settings.norm),
            settings,
            seed=seed,
            world=world,
            whole=True,
            on_batch=lambda count: bar.advance(count * world.size),
        )
    world.close()
    entry = evaluation["models"]["model"]
    intervals = entry["intervals"]
    return Robustness(
        clean_accuracy=entry["clean_accuracy"],
        robust_accuracy=entry["robust_accuracy"],
        clean_interval=tuple(intervals["clean_accuracy"]),
        robust_interval=tuple(intervals["robust_accuracy"]) if "robust_accuracy" in intervals else None,
        samples=evaluation["samples"],
        warnings=tuple(entry["warnings"]),
        _evaluation=evaluation,
    )
