"""Attacks on images in [0, 1]: views of a model, the PGD loop, and the inner maximisation of training."""

from act_engine.attack.attack import Attack
from act_engine.attack.frozen import frozen_model, untouched
from act_engine.attack.labels import Labels, MixedLabels, correction, distribution, first_class
from act_engine.attack.pgd import input_gradient, pgd, usual_step_size
from act_engine.attack.pixels import Inputs, diameter, require_within, unit_range
from act_engine.attack.start import first_iterate
from act_engine.attack.view import AUTOCAST, AttackView, LiveView

__all__ = [
    "AUTOCAST",
    "Attack",
    "AttackView",
    "Inputs",
    "Labels",
    "LiveView",
    "MixedLabels",
    "correction",
    "diameter",
    "distribution",
    "first_class",
    "first_iterate",
    "frozen_model",
    "input_gradient",
    "pgd",
    "require_within",
    "unit_range",
    "untouched",
    "usual_step_size",
]
