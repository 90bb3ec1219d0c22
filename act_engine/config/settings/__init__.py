"""The settings of a run: frozen, typed, checked; a module a group."""

from act_engine.config.settings.analysis import AnalysisConfig
from act_engine.config.settings.attack import AttackConfig
from act_engine.config.settings.checkpoint import CheckpointConfig
from act_engine.config.settings.data import DataConfig
from act_engine.config.settings.evaluate import EvaluateConfig
from act_engine.config.settings.model import ModelConfig
from act_engine.config.settings.objective import Numbers, ObjectiveConfig
from act_engine.config.settings.optim import OptimConfig
from act_engine.config.settings.parallel import ParallelConfig
from act_engine.config.settings.train import TrainConfig
from act_engine.config.settings.whole import Config

__all__ = [
    "AnalysisConfig",
    "AttackConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "Numbers",
    "ObjectiveConfig",
    "OptimConfig",
    "ParallelConfig",
    "TrainConfig",
]
