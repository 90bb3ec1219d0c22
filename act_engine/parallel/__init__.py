"""How a model is trained on the devices at hand: one process, DistributedDataParallel, or DeepSpeed's ZeRO."""

from act_engine.parallel.learner import Learner, deployed
from act_engine.parallel.memory import TrainingMemory, training_memory
from act_engine.parallel.recompute import kept_buffers
from act_engine.parallel.schedule import lr_schedule
from act_engine.parallel.strategy import build_learner, check_strategy, pick_strategy
from act_engine.parallel.world import ProcessLost, Vote, World, connect

__all__ = [
    "Learner",
    "ProcessLost",
    "TrainingMemory",
    "Vote",
    "World",
    "build_learner",
    "check_strategy",
    "connect",
    "deployed",
    "kept_buffers",
    "lr_schedule",
    "pick_strategy",
    "training_memory",
]
