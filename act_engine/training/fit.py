"""Training your own models on your own batches: nothing named, nothing on disk."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from act_engine.attack import usual_step_size
from act_engine.config import Config, from_mapping
from act_engine.data import as_loader
from act_engine.learners import SHARDED, deployed, pick_strategy
from act_engine.models.side_by_side import stand_apart
from act_engine.objectives import Objective, build_objective
from act_engine.parallel import World, connect
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress
from act_engine.runs.environment import pick_device
from act_engine.training.build import check_given, make_learners, make_step
from act_engine.training.checkpoint import require_finite
from act_engine.training.losses import PendingLosses
from act_engine.training.preflight import check_ball, check_model
from act_engine.training.resolve import resolve


@dataclass(frozen=True)
class Fitted:
    """What `fit` gives back."""

    models: dict[str, nn.Module]
    """The models that were given, trained, in eval mode, by name; with ``train.ema`` the averaged weights."""
    history: list[dict[str, float]]
    """One record per epoch: ``epoch``, ``step``, ``lr``, and ``NAME_loss``, the epoch's mean loss of each model."""


def fit(
    models: nn.Module | Mapping[str, nn.Module],
    train_loader: Iterable[Any],
    *,
    objective: str | Objective = "act",
    epochs: int,
    eps: float = 8 / 255,
    steps: int = 10,
    step_size: float | None = None,
    norm: str = "linf",
    lr: float = 0.1,
    schedule: str = "cosine",
    precision: str = "float32",
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Kind | bool = "auto",
) -> Fitted:
    """Train models adversarially, in place, with the parts and the arithmetic of ``act_engine.train``.

    Args:
        models: from images [B, C, H, W] in [0, 1] to logits [B, classes], by the objective's names for them: ACT and
            LBGAT train ``{"robust": …, "natural": …}``; for an objective of one model that model alone will do.
        train_loader: an iterable of batches (images float in [0, 1] or uint8, labels int [B]), such as a DataLoader
            that shuffles; every pass over it is an epoch. Started by torchrun, each process gives its own part of it.
        objective: a method's name, or an `Objective` of your own.
        epochs: passes over the loader.
        eps, norm: the attack's ball around an image, in [0, 1] pixel units; ``"linf"`` or ``"l2"``.
        steps, step_size: the attack's iterations and their length; None: 2.5 · eps / steps.
        lr, schedule: of SGD with momentum 0.9; ``"constant"``, ``"multistep"``, ``"cosine"`` or ``"onecycle"``.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        seed: every draw of the attack follows from it.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; the models are moved there.
        settings: any other of the command's settings, such as ``{"optim": {"weight_decay": 1e-4}, "train": {"ema":
            0.999}}``; they go before the arguments above.
        progress: ``"bar"``, ``"lines"``, ``"none"``, or ``"auto"``: a bar on a terminal and lines elsewhere.

    Raises:
        ValueError: a setting or an input is not what it has to be; one line says what is allowed.
        NonFiniteLoss, NonFiniteWeights: a loss, or in the last step a weight, became NaN or infinite.
    """
    length = 1.0 if step_size is None else step_size
    given = {
        "attack": {"eps": eps, "steps": steps, "step_size": length, "norm": norm},
        "optim": {"lr": lr, "schedule": schedule},
        "train": {"epochs": epochs, "precision": precision, "seed": seed, "device": device},
        **({"objective": {"name": objective}} if isinstance(objective, str) else {}),
    }
    base = dataclasses.replace(from_mapping(given), under=None)
    if step_size is None:  # in a ball of radius 0 every step is projected away, whatever its length
        length = usual_step_size(base.attack.eps, base.attack.steps) or 1.0
        base = dataclasses.replace(base, attack=dataclasses.replace(base.attack, step_size=length))
    config = from_mapping(settings or {}, base)
    world = connect(pick_device(config.train.device), timeout=config.parallel.timeout)
    if (strategy := pick_strategy(config.parallel.strategy, world.size)) in SHARDED:
        raise ValueError(f"parallel.strategy: got {strategy!r}; allowed in fit: auto, single, ddp; Trainer takes it")
    method = build_objective(**config.objective.method()) if isinstance(objective, str) else objective
    if isinstance(models, nn.Module):
        models = dict.fromkeys(method.trains, models) if len(method.trains) == 1 else {"model": models}
    given = check_given(models, method)
    loader = as_loader(train_loader, device=world.device, seed=config.train.seed)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=loader.batch_size))
    config = resolve(config, method, world, config.model.num_classes or 1)
    steps_per_epoch = len(loader)
    total = min(steps_per_epoch * config.train.epochs, config.train.max_steps or 2**62)
    trained = {name: given[name] for name in method.trains}
    learners = make_learners(config, trained, world, steps_per_epoch=steps_per_epoch)
    frozen = {name: given[name].to(world.device) for name in method.frozen}
    step = make_step(config, method, learners, frozen, world, steps_per_epoch=steps_per_epoch)
    history, pending = [], PendingLosses(world)
    bar = shown_progress(progress, total, unit="step", what="training", shown=world.is_main)
    with bar, world.watched():
        while step.steps_taken < total:
            epoch = step.steps_taken // steps_per_epoch
            for images, labels in loader.epoch(epoch):
                if not step.steps_taken:
                    _check(config, given, method, images, world)
                losses = step(images, labels)
                pending.add(step.steps_taken, losses)
                bar.advance()
                if step.steps_taken == total:
                    break
            record = {f"{name}_loss": value for name, value in pending.fetch().items()}
            bar.show({name: f"{value:.4g}" for name, value in record.items()})
            lr_now = next(iter(learners.values())).lr_at(step.steps_taken - 1)
            history.append({"epoch": epoch, "step": step.steps_taken, "lr": lr_now, **record})
    for name, learner in learners.items():
        weights = deployed(learner.state_dict()[0])
        require_finite(weights, f"models: the {name} model's")
        given[name].load_state_dict(weights)
        stand_apart(given[name]).eval()
    world.close()
    return Fitted(trained, history)


def _check(config: Config, given: Mapping[str, nn.Module], method: Objective, images: Tensor, world: World) -> None:
    """Find out before the first step whether attack and models suit images such as the first batch's."""
    shape = tuple(images.shape[1:])
    check_ball(config.attack.eps, config.attack.step_size, config.attack.norm, shape)
    size = len(images) // config.train.accumulate * (world.size if config.parallel.sync_batchnorm else 1)
    for name, model in given.items():
        pass_size = size if name in method.trains else None
        check_model(model, f"models: got {name!r}", [shape], num_classes=2, pass_size=pass_size)
