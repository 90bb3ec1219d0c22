"""act_engine: train robust models, fast. Adversarial Concurrent Training and its peers, as a library and as commands.

The names below are loaded when they are first used: importing act_engine alone loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Attack": "act_engine.attack",
    "AttackView": "act_engine.attack",
    "Config": "act_engine.config",
    "Normalize": "act_engine.models",
    "PGDAttack": "act_engine.evaluation",
    "Trainer": "act_engine.training.trainer",
    "TrainingStep": "act_engine.training.step",
    "build_data": "act_engine.data",
    "build_learner": "act_engine.learners",
    "build_model": "act_engine.models",
    "build_objective": "act_engine.objectives",
    "fit": "act_engine.training.fit",
    "given_data": "act_engine.data",
    "load_model": "act_engine.models",
    "load_weights": "act_engine.models",
    "read_config": "act_engine.config",
    "robustness": "act_engine.evaluation.robustness",
    "save_model": "act_engine.training.checkpoint",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from act_engine.attack import Attack as Attack
    from act_engine.attack import AttackView as AttackView
    from act_engine.config import Config as Config
    from act_engine.config import read_config as read_config
    from act_engine.data import build_data as build_data
    from act_engine.data import given_data as given_data
    from act_engine.evaluation import PGDAttack as PGDAttack
    from act_engine.evaluation.robustness import robustness as robustness
    from act_engine.learners import build_learner as build_learner
    from act_engine.models import Normalize as Normalize
    from act_engine.models import build_model as build_model
    from act_engine.models import load_model as load_model
    from act_engine.models import load_weights as load_weights
    from act_engine.objectives import build_objective as build_objective
    from act_engine.training.checkpoint import save_model as save_model
    from act_engine.training.fit import fit as fit
    from act_engine.training.step import TrainingStep as TrainingStep
    from act_engine.training.trainer import Trainer as Trainer


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'act_engine' has no attribute {name!r}; it has: {', '.join(_HOMES)}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
