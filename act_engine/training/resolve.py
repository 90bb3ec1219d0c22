"""A run's automatic settings: what follows from the config and from where the run takes place."""

import dataclasses

from act_engine.config import Config, Numbers
from act_engine.learners import SHARDED, check_strategy, pick_strategy
from act_engine.objectives import Objective, own_numbers
from act_engine.parallel import World
from act_engine.training.effects import Run, refuse_idle


def resolve(config: Config, objective: Objective, world: World, num_classes: int) -> Config:
    """The config with every automatic setting replaced by what it comes to.

    Raises:
        ValueError: a setting does not go with the others, or was given and can have no effect.
    """
    strategy = pick_strategy(config.parallel.strategy, world.size)
    refuse_idle(Run(config, objective, strategy, world.size, world.device.type))
    classes = config.model.num_classes or num_classes
    if classes < num_classes:
        raise ValueError(f"model.num_classes: got {classes}; the data has {num_classes} classes, so at least that many")
    attack = config.attack
    if objective.attack_loss != "none":
        loss = objective.attack_loss if attack.loss == "auto" else attack.loss
        start = objective.attack_start if attack.start == "auto" else attack.start
        objective.attack_weights(loss, config.data.batch_size)  # refuses a loss that the objective does not have
        attack = dataclasses.replace(attack, loss=loss, start=start)
    if "teacher" in objective.frozen and config.model.teacher_weights is None:
        raise ValueError(
            f"model.teacher_weights: got None; objective {config.objective.name} needs the weights of a robust model "
            "trained before, such as runs/teacher/robust.safetensors"
        )
    parallel = dataclasses.replace(config.parallel, strategy=strategy)
    if config.objective.awp_gamma:
        _check_awp(config, strategy)
    check_strategy(
        strategy,
        device_type=world.device.type,
        world_size=world.size,
        precision=config.train.precision,
        sync_batchnorm=parallel.sync_batchnorm,
        deepspeed_config=parallel.deepspeed_config,
        recompute=config.train.recompute,
        shard_size=parallel.shard_size,
    )
    return dataclasses.replace(
        config,
        objective=dataclasses.replace(config.objective, numbers=Numbers(own_numbers(objective))),
        attack=attack,
        model=dataclasses.replace(config.model, num_classes=classes),
        train=dataclasses.replace(config.train, device=world.device.type),
        parallel=parallel,
    )


def _check_awp(config: Config, strategy: str) -> None:
    """Refuse weight perturbation where the weights are not whole, or a step does not see its batch as a whole."""
    hindrances = {
        f"parallel.strategy {strategy}, which shards what it would move": strategy in SHARDED,
        "train.accumulate above 1: the move is that of the whole batch": config.train.accumulate > 1,
        "train.precision float16, in which its gradient may underflow": config.train.precision == "float16",
    }
    for hindrance, holds in hindrances.items():
        if holds:
            raise ValueError(f"objective.awp_gamma: got {config.objective.awp_gamma}; allowed: 0 with {hindrance}")
