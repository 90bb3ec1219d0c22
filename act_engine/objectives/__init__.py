"""Training methods, one file each; every file reads like its formula, and its class says all there is to say of it."""

from act_engine.objectives.base import Models, Objective, cross_entropy, number, over_classes, soft_term
from act_engine.objectives.registry import (
    build_objective,
    describe_objectives,
    find_objective,
    number_names,
    objectives,
    own_numbers,
)

__all__ = [
    "Models",
    "Objective",
    "build_objective",
    "cross_entropy",
    "describe_objectives",
    "find_objective",
    "number",
    "number_names",
    "objectives",
    "over_classes",
    "own_numbers",
    "soft_term",
]
