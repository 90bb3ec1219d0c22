"""How a model is trained on the devices at hand."""

from act_engine.parallel.learner import Learner
from act_engine.parallel.schedule import lr_schedule

__all__ = ["Learner", "lr_schedule"]
