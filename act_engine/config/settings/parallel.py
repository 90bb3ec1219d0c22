"""How processes share a run."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes that torchrun starts share the work."""

    strategy: Literal["auto", "single", "ddp", "fsdp", "deepspeed"] = "auto"
    """single: one process; ddp: every process holds both models; fsdp: PyTorch's FSDP2 shards weights, gradients and
    the optimizers' state, block by block; deepspeed: ZeRO shards them by stages; auto: single for one process, ddp for
    more."""
    shard_size: int | None = None
    """fsdp: processes that share one copy of the weights, such as those of a node, a divisor of their number; the
    gradients are averaged between such groups. null: all processes."""
    zero_stage: int = 1
    """deepspeed: 0 shards nothing, 1 the optimizers' state, 2 the gradients too, 3 the weights too."""
    offload: Literal["none", "optimizer"] = "none"
    """deepspeed, stages 1 to 3: optimizer keeps its state in the host's memory and steps there."""
    gather_for_attack: bool = True
    """fsdp, and deepspeed with stage 3: gather the robust model once per step for the whole attack;
    false: layer by layer (fsdp: block by block) in every pass, where it does not fit."""
    sync_batchnorm: bool = False
    """Let BatchNorm see the batches of all processes as one (GPUs only); false: each its own, and the running
    statistics are averaged after every step."""
    timeout: float = 600.0
    """Seconds that a process waits for another one before it gives the run up."""
    deepspeed_config: str | None = None
    """deepspeed: JSON file of further DeepSpeed settings, put over those that follow from the run's."""

    def __post_init__(self) -> None:
        require(0 <= self.zero_stage <= 3, "parallel.zero_stage", self.zero_stage, "0, 1, 2 or 3")
        size = self.shard_size
        require(size is None or size >= 1, "parallel.shard_size", size, "1 or more, or null")
        if self.offload != "none":
            require(self.zero_stage > 0, "parallel.offload", self.offload, "none at parallel.zero_stage 0")
        require(0 < self.timeout <= 604_800, "parallel.timeout", self.timeout, "above 0 to 604800 (a week), in seconds")
