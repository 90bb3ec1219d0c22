"""What a run will need, before it is paid for: ``python -m act_engine.plan --recipe imagenet_resnet50 --gpus 1,8``."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from act_engine.config import Config
from act_engine.config.command_line import (
    COMMON,
    chosen_config,
    chosen_values,
    own_arguments,
    read_options,
    user_errors,
)
from act_engine.planning.plan import plan
from act_engine.runs.reading import read_records


@dataclass(frozen=True)
class Arguments(Config):
    """Plan a run: parameters, memory per GPU by part, attack passes, GPU-hours, and how the cost grows.

    Memory and arithmetic come from a dry run without data or GPU; GPU-hours need a speed, given or measured. Any
    setting of the run can be given here too.
    """

    recipe: str | None = None
    """Name of a recipe inside the package."""
    config: str | None = None
    """YAML file of settings, instead of a recipe."""
    gpus: tuple[int, ...] = (1, 8, 64)
    """Numbers of GPUs to plan for."""
    images: int | None = None
    """Training images; null: the data set's usual number (image folders and shards: ImageNet-1k's)."""
    images_per_second: float | None = None
    """Training speed of one GPU with these settings, in images a second."""
    measured: str | None = None
    """Folder of a run on one GPU with these settings: its median images_per_second is the speed."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        options = read_options(
            Arguments,
            words,
            "python -m act_engine.plan",
            common=COMMON,
            values=chosen_values,
            more_help=_objectives,
        )
        config = chosen_config(options)
        given = own_arguments(Arguments, options)
        gpus = given.gpus
        if not gpus or min(gpus) < 1:
            raise ValueError(f"--gpus: got {list(gpus)}; allowed: numbers of 1 or more, such as 1,8,64")
        if given.images is not None and given.images < 1:
            raise ValueError(f"--images: got {given.images}; allowed: 1 or more, or null")
        speed = _speed(given.images_per_second, given.measured)
        print(plan(config, gpus=gpus, images=given.images, images_per_second=speed))
    return 0


def _speed(given: float | None, folder: str | None) -> float | None:
    if given is not None and folder is not None:
        raise ValueError("--images-per-second and --measured: give at most one of the two")
    if given is not None and not given > 0:
        raise ValueError(f"--images-per-second: got {given}; allowed: above 0")
    if folder is None:
        return given
    metrics = Path(folder) / "metrics.jsonl"
    if not metrics.is_file():
        raise ValueError(f"--measured: {folder} holds no metrics.jsonl; give the folder of a run that has trained")
    records = read_records(metrics)
    speeds = [record["images_per_second"] for record in records if "images_per_second" in record]
    if not speeds:
        raise ValueError(f"--measured: {metrics} holds no images_per_second yet; let the run log a few steps")
    return statistics.median(speeds)


def _objectives() -> str:
    from act_engine.objectives import describe_objectives  # after the arguments: a typo need not wait for torch

    return describe_objectives()


if __name__ == "__main__":
    raise SystemExit(main())
