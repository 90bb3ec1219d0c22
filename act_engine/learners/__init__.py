"""A learner: one model with optimizer, schedule and averaged weights, on one device, DDP, FSDP2 or DeepSpeed's ZeRO."""

from act_engine.learners.learner import Learner, deployed
from act_engine.learners.schedule import lr_schedule, momentum_cycle
from act_engine.learners.strategy import SHARDED, build_learner, check_strategy, pick_strategy
from act_engine.models.recompute import kept_buffers

__all__ = [
    "SHARDED",
    "Learner",
    "build_learner",
    "check_strategy",
    "deployed",
    "kept_buffers",
    "lr_schedule",
    "momentum_cycle",
    "pick_strategy",
]
