"""Attacks on images in [0, 1]: the frozen view of a model, the PGD loop, and the inner maximisation of training."""

from act_engine.attack.frozen import frozen_eval
from act_engine.attack.pgd import Attack, input_gradient, pgd
from act_engine.attack.pixels import unit_range
from act_engine.attack.start import first_iterate

__all__ = ["Attack", "first_iterate", "frozen_eval", "input_gradient", "pgd", "unit_range"]
