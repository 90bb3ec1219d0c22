"""What training a model takes of a rank's memory, by strategy and number of processes."""

from dataclasses import dataclass

from act_engine.parallel.zero import BUCKET

FLOAT = 4  # bytes: weights, gradients and optimizer state are float32 at every precision
PERSISTENT = 100_000
"""Parameters of at most so many elements are not sharded by ZeRO-3 (DeepSpeed's stage3_param_persistence_threshold)."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one rank, activations and the attack's view of the model not counted."""

    parameters: int
    gradients: int
    optimizer: int
    """Its state and, under ZeRO 1 to 3, its own copy of the weights."""
    buffers: int
    """Communication buckets."""

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
    persistent: int = PERSISTENT,
) -> TrainingMemory:
    """The peak, at the end of a backward pass, for one model; the two models of ACT take the sum of theirs.

    ZeRO's stages (Rajbhandari et al., arXiv 1910.02054) in the form that float32 training takes: the optimizer steps on
    a copy of its shard of the weights.

    Args:
        parameter_sizes: elements of each parameter.
        strategy: ``"single"``, ``"ddp"`` or ``"deepspeed"``.
        state_tensors: of the optimizer for each weight: 1 for SGD with momentum, 2 for AdamW.
        persistent: largest parameter that ZeRO-3 leaves whole, in elements.
    """
    whole = sum(parameter_sizes)
    sharded = strategy == "deepspeed" and zero_stage > 0
    shard = sum(-(-size // world_size) for size in parameter_sizes) if sharded else whole
    parameters = gradients = whole
    if sharded and zero_stage == 3:
        parameters = shard + sum(size for size in parameter_sizes if size <= persistent)
    if sharded and zero_stage >= 2:
        gradients = shard
    optimizer = shard * (state_tensors + 1) if sharded else whole * state_tensors
    buffers = min(BUCKET, whole) if sharded and zero_stage == 3 else 0
    return TrainingMemory(FLOAT * parameters, FLOAT * gradients, FLOAT * optimizer, FLOAT * buffers)
