"""What training a model takes of a rank's memory, by strategy and number of processes."""

from dataclasses import dataclass

from act_engine.learners.zero import BUCKET

FLOAT = 4  # bytes: weights, gradients and optimizer state are float32 at every precision
LIVE = 10**9
"""DeepSpeed's stage3_max_live_parameters: up to a billion parameters, a pass leaves the whole model gathered."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one rank, activations and the attack's view of the model not counted."""

    parameters: int
    gradients: int
    optimizer: int
    """Its state and, under ZeRO 1 to 3, its own copy of the weights."""
    buffers: int
    """The communication bucket."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.buffers


def training_memory(
    parameter_sizes: list[int],
    strategy: str,
    world_size: int,
    *,
    zero_stage: int = 0,
    state_tensors: int = 1,
    bucket: int = BUCKET,
    live: int = LIVE,
) -> TrainingMemory:
    """The peak on one rank, near the end of a backward pass, for one model; two models take the sum of theirs.

    ZeRO's stages (Rajbhandari et al., arXiv 1910.02054) in the form that float32 training takes in DeepSpeed: the
    optimizer steps on a copy of its shard of the weights.

    Args:
        parameter_sizes: elements of each parameter.
        strategy: ``"single"``, ``"ddp"`` or ``"deepspeed"``.
        state_tensors: of the optimizer for each weight: 1 for SGD with momentum, 2 for AdamW.
        bucket: elements reduced at a time.
        live: elements of gathered parameters that ZeRO-3 leaves whole during a pass.
    """
    whole = sum(parameter_sizes)
    if strategy != "deepspeed" or zero_stage == 0:
        return TrainingMemory(FLOAT * whole, FLOAT * whole, FLOAT * whole * state_tensors, 0)
    shard = sum(-(-size // world_size) for size in parameter_sizes)
    return TrainingMemory(
        parameters=FLOAT * (whole if zero_stage < 3 else shard + min(live, whole)),
        gradients=FLOAT * (whole if zero_stage == 1 else shard),
        optimizer=FLOAT * shard * (1 + state_tensors),
        buffers=FLOAT * min(bucket, whole),
    )
