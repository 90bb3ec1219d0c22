"""A plain loop with foolbox's `LinfPGD`; evaluation with its `repeat`."""

from collections.abc import Callable

import foolbox
from drivers.plain import step_with
from setting import Setting
from torch import Tensor

PACKAGE = "foolbox"


def _attack(setting: Setting) -> foolbox.Attack:
    return foolbox.attacks.LinfPGD(abs_stepsize=setting.step_size, steps=setting.steps, random_start=True)


def _pgd(setting: Setting, logits: Callable, x: Tensor, y: Tensor) -> Tensor:
    model = foolbox.PyTorchModel(setting.model.eval(), bounds=(0, 1))
    return _attack(setting)(model, x, y, epsilons=setting.eps)[1]


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    model = foolbox.PyTorchModel(setting.model.eval(), bounds=(0, 1))
    attack = _attack(setting).repeat(setting.restarts)
    return lambda: ~attack(model, setting.images, setting.labels, epsilons=setting.eps)[2]


STEPS = {"madry": step_with(_pgd), "fgsm_rs": step_with(_pgd)}
EVALUATIONS = {"pgd": _restarts}
