"""What a run is, in the few lines that its log begins with."""

from collections.abc import Mapping
from pathlib import Path

import act_engine
from act_engine.config import Config
from act_engine.data import Data
from act_engine.objectives import Objective
from act_engine.parallel import World
from act_engine.runs.environment import describe_device, describe_kernels


def describe_training(
    config: Config,
    objective: Objective,
    data: Data,
    world: World,
    output: Path,
    *,
    models: Mapping[str, str],
    step: int,
    total_steps: int,
) -> list[str]:
    """The method, the models, the data's counts, the devices, the kernels and why, the output.

    Args:
        config: as resolved.
        models: what each trained one is, by name.
        step: steps taken already, of `total_steps`.
    """
    attack, train = config.attack, config.train
    numbers = ", ".join(f"{name} {value:g}" for name, value in config.objective.numbers.items())
    images = f"{data.train.num_samples:,} training and {data.test.num_samples:,} test images"
    held_out = "" if data.selection is None else f", {data.selection.num_samples:,} to choose a checkpoint by"
    shape = "×".join(map(str, data.image_shape))
    told = config.model.num_classes
    surplus = f" of the {told:,} that the models tell apart (model.num_classes)" if told > data.num_classes else ""
    processes = f"{world.size} processes, {config.parallel.strategy}" if world.size > 1 else "1 process"
    begins = f"steps {step + 1} to {total_steps}" if step else f"{total_steps} steps"
    lines = [
        f"act_engine {act_engine.__version__}: {objective.label}" + (f" ({numbers})" if numbers else ""),
        f"models: {'; '.join(f'{name} {model}' for name, model in models.items())}",
        f"data: {config.data.name}, {images}{held_out}, {shape}, {data.num_classes} classes{surplus}",
    ]
    if objective.attack_loss != "none":
        lines.append(
            f"attack: {attack.steps} steps of {attack.step_size:.4g} within {attack.norm} {attack.eps:.4g}, "
            f"maximises {attack.loss}, start {attack.start}"
        )
    lines += [
        f"training: {begins}, {train.epochs} epochs, batch {config.data.batch_size}"
        + (f" on each of {world.size} processes" if world.size > 1 else "")
        + f", {config.optim.name} at {config.optim.lr:g}, {config.optim.schedule}, seed {train.seed}",
        f"device: {describe_device(world.device)}, {processes}, {train.precision}",
        *(f"kernels: {line}" for line in describe_kernels(world.device.type)),
        f"output: {output}",
    ]
    return lines
