"""The settings of a run. Each has one name, ``group.field``, the same in YAML and on the command line."""

from act_engine.config.checks import nearest
from act_engine.config.reading import (
    convert,
    from_mapping,
    read_config,
    read_recipe,
    read_yaml,
    recipe_names,
    to_mapping,
)
from act_engine.config.settings import (
    OBJECTIVES,
    AnalysisConfig,
    AttackConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    ParallelConfig,
    TrainConfig,
)

__all__ = [
    "OBJECTIVES",
    "AnalysisConfig",
    "AttackConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "ParallelConfig",
    "TrainConfig",
    "convert",
    "from_mapping",
    "nearest",
    "read_config",
    "read_recipe",
    "read_yaml",
    "recipe_names",
    "to_mapping",
]
