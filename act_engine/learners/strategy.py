"""Which strategy drives a model, and a learner under it."""

from typing import Any

from torch import nn

from act_engine.learners.ddp import DDPLearner
from act_engine.learners.fsdp import FSDPLearner
from act_engine.learners.learner import Learner
from act_engine.learners.zero import ZeroLearner, import_deepspeed, read_settings
from act_engine.parallel.world import World

SHARDED = ("fsdp", "deepspeed")
"""Strategies that may leave a process with a part of each weight; they need a process group, of one process too."""


def pick_strategy(strategy: str, world_size: int) -> str:
    """``"single"``, ``"ddp"``, ``"fsdp"`` or ``"deepspeed"``: ``"auto"`` is single for one process and ddp for more.

    Raises:
        ValueError: single for several processes.
    """
    if strategy == "auto":
        return "single" if world_size == 1 else "ddp"
    if strategy == "single" and world_size > 1:
        raise ValueError(
            f"parallel.strategy: got 'single' for {world_size} processes; allowed: auto, ddp, fsdp, deepspeed"
        )
    return strategy


def check_strategy(
    strategy: str,
    *,
    device_type: str,
    world_size: int,
    precision: str,
    sync_batchnorm: bool,
    deepspeed_config: str | None,
    recompute: str,
    shard_size: int | None = None,
) -> None:
    """Refuse what a strategy cannot do, before anything is built.

    Raises:
        ValueError: naming the setting.
    """
    if sync_batchnorm and device_type != "cuda":
        raise ValueError("parallel.sync_batchnorm: got true on the CPU; PyTorch has SyncBatchNorm for GPUs only")
    if recompute != "none" and sync_batchnorm:
        raise ValueError(f"train.recompute: got {recompute!r} with parallel.sync_batchnorm true; allowed: none")
    if shard_size is not None and world_size % shard_size:
        raise ValueError(f"parallel.shard_size: got {shard_size}; allowed: a divisor of the {world_size} processes")
    if strategy in SHARDED and precision == "float16":
        raise ValueError(
            f"train.precision: got 'float16' with parallel.strategy {strategy}; allowed: float32, bfloat16"
        )
    if strategy == "deepspeed":
        import_deepspeed(device_type)
        read_settings(deepspeed_config)


def build_learner(
    strategy: str,
    model: nn.Module,
    world: World,
    *,
    zero_stage: int = 1,
    offload: bool = False,
    gather_for_attack: bool = True,
    deepspeed_config: str | None = None,
    sync_batchnorm: bool = False,
    shard_size: int | None = None,
    batch_size: int = 1,
    **settings: Any,
) -> Learner:
    """A learner for `model` under a strategy that `pick_strategy` gave.

    `batch_size` is the images a backward pass and rank; `settings` are `Learner`'s, without the device. The other
    arguments are `ZeroLearner`'s and `FSDPLearner`'s; other strategies do without them.
    """
    if sync_batchnorm and world.size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    settings["device"] = world.device
    if strategy == "single":
        return Learner(model, **settings)
    if strategy == "ddp":
        return DDPLearner(model, **settings)
    if strategy == "fsdp":
        return FSDPLearner(model, gather_for_attack=gather_for_attack, shard_size=shard_size, **settings)
    return ZeroLearner(
        model,
        stage=zero_stage,
        offload=offload,
        gather_for_attack=gather_for_attack,
        extra=read_settings(deepspeed_config),
        batch_size=batch_size,
        **settings,
    )
