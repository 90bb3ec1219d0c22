"""The plan of a run as text: parameters, memory, passes, cost."""

from collections.abc import Sequence

import torch

from act_engine.config import Config
from act_engine.data import data_facts
from act_engine.models import build_model
from act_engine.planning.dry_run import Step, measure_step
from act_engine.planning.memory import training_memory
from act_engine.runs.methods import method_of


def plan(config: Config, *, gpus: Sequence[int], images: int | None, images_per_second: float | None) -> str:
    """The whole plan as text; `images_per_second` is one GPU's."""
    usual_images, classes, shape = data_facts(**vars(config.data))
    images = images or usual_images
    objective = method_of(config)
    architectures = {role: config.model.architecture(role) for role in ("robust", "natural", "teacher")}
    classes = config.model.num_classes or classes
    step = measure_step(
        objective,
        lambda name: build_model(**{**architectures[name], "num_classes": classes}, image_shape=shape),
        shape,
        autocast={"bfloat16": torch.bfloat16, "float16": torch.float16}.get(config.train.precision),
    )
    steps = config.attack.steps if objective.attack_loss != "none" else 0
    flops = step.train_flops + steps * step.attack_flops
    passes = " + ".join(f"{count} of the {name} model" for name, count in step.train_passes.items())
    awp = config.objective.awp_gamma > 0
    growing = ", the largest of data.train_sizes" if config.data.train_sizes else ""
    lines = [
        f"{config.objective.name} on {config.data.name}, pictures {' x '.join(map(str, shape))}{growing}, "
        f"{config.train.precision}, {config.data.batch_size} images a GPU and step",
        "",
        *(
            f"{name} model: {architectures[name]['name']}, {count / 1e6:.2f} M parameters"
            for name, count in step.parameters.items()
        ),
        f"attack, an image: {steps} forward and {steps} input-gradient passes of the robust model"
        + (f", {step.clean_passes} clean forward" if step.clean_passes else ""),
        f"training, an image: forward and backward, {passes}",
        f"arithmetic, an image: {flops / 1e9:.2f} GFLOP, {steps * step.attack_flops / flops:.0%} of it the attack",
        "",
        *_memory_table(config, step, gpus),
        *(["objective.awp_gamma: its second pass of the robust model is in none of these figures"] * awp),
        "",
        f"{config.train.epochs} epochs of {images:,} images: {images * config.train.epochs * flops:.2e} FLOP",
        *_cost_table(config, step, gpus, images, images_per_second),
    ]
    return "\n".join(lines)


def _memory_table(config: Config, step: Step, gpus: Sequence[int]) -> list[str]:
    """What `training_memory` says of every strategy and number of GPUs, with the batch's activations."""
    state = {"state_tensors": 2 if config.optim.name == "adamw" else int(config.optim.momentum > 0)}
    activations = step.fixed_bytes + step.activation_bytes * config.data.batch_size
    costs = []
    for stage in range(4):
        strategy, name = ("deepspeed", f"ZeRO {stage}") if stage else ("ddp", "whole")
        for count in gpus:
            if stage and count == 1:
                continue  # nothing to share
            models = [
                training_memory(sizes, strategy, count, zero_stage=stage, **state)
                for sizes in step.parameter_sizes.values()
            ]
            weights = sum(model.parameters for model in models) + step.buffer_bytes
            gradients, optimizer, buckets = (
                sum(getattr(model, part) for model in models) for part in ("gradients", "optimizer", "buffers")
            )
            costs.append((name, count, (weights, gradients, optimizer, buckets, activations)))
    unit, unit_bytes = ("GiB", 2**30) if sum(costs[0][2]) >= 2**30 else ("MiB", 2**20)
    rows = [("strategy", "GPUs", "weights", "gradients", "optimizer", "buckets", "activations", "total")]
    for name, count, parts in costs:
        rows.append((name, str(count), *(f"{part / unit_bytes:.2f}" for part in (*parts, sum(parts)))))
    note = "the attack's copy of the robust model, workspaces and fragmentation come on top"
    return [f"memory a GPU, {unit} ({note}):", *_table(rows)]


def _cost_table(
    config: Config, step: Step, gpus: Sequence[int], images: int, images_per_second: float | None
) -> list[str]:
    """How the cost grows with the attack's steps, in arithmetic and, where a speed is known, in hours."""
    own = config.attack.steps if step.attack_flops else 0
    base = step.train_flops + own * step.attack_flops
    choices = sorted({0, 1, 2, 3, 5, 10, 20, own}) if step.attack_flops else [0]
    rows = [("attack steps", "GFLOP an image", "relative", "GPU-hours", *(f"hours on {count}" for count in gpus))]
    for steps in choices:
        relative = (step.train_flops + steps * step.attack_flops) / base
        hours = ["-"] * (1 + len(gpus))
        if images_per_second is not None:
            gpu_hours = images * config.train.epochs / images_per_second / 3600 * relative
            hours = [f"{gpu_hours:.1f}", *(f"{gpu_hours / count:.2f}" for count in gpus)]
        rows.append(
            (f"{steps}{' *' if steps == own else ''}", f"{relative * base / 1e9:.2f}", f"{relative:.2f}", *hours)
        )
    if images_per_second is None:
        source = "unknown without a speed: give --images-per-second, or --measured with a run's folder"
    else:
        source = (
            f"{images_per_second:g} images a second and GPU at {own} steps, the rest in proportion to the arithmetic"
        )
    note = f"* this run. GPU-hours: {source}; more GPUs: no loss assumed."
    return [*_table(rows), note]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
