"""advertorch's `LinfPGDAttack` in a plain loop."""

from collections.abc import Callable

from advertorch.attacks import LinfPGDAttack
from drivers.plain import step_with
from setting import Setting
from torch import Tensor

PACKAGE = "advertorch"


def _pgd(setting: Setting, logits: Callable, x: Tensor, y: Tensor) -> Tensor:
    attack = LinfPGDAttack(
        setting.model, eps=setting.eps, nb_iter=setting.steps, eps_iter=setting.step_size, rand_init=True
    )
    return attack.perturb(x, y)


STEPS = {"madry": step_with(_pgd), "fgsm_rs": step_with(_pgd)}
EVALUATIONS = {}
