"""A plain loop with torchattacks' attacks; evaluation by its `MultiAttack` and `AutoAttack`."""

from collections.abc import Callable

import torchattacks
from drivers.plain import step_with
from setting import Setting
from torch import Tensor

PACKAGE = "torchattacks"


def _pgd(setting: Setting, logits: Callable, x: Tensor, y: Tensor) -> Tensor:
    attack = torchattacks.PGD(setting.model, setting.eps, setting.step_size, setting.steps)
    return attack(x, y)


def _tpgd(setting: Setting, logits: Callable, x: Tensor, y: Tensor) -> Tensor:
    return torchattacks.TPGD(setting.model, setting.eps, setting.step_size, setting.steps)(x)


def _ffgsm(setting: Setting, logits: Callable, x: Tensor, y: Tensor) -> Tensor:
    return torchattacks.FFGSM(setting.model, setting.eps, setting.step_size)(x, y)


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    model = setting.model.eval()
    attacks = [torchattacks.PGD(model, setting.eps, setting.step_size, setting.steps) for _ in range(setting.restarts)]
    attack = torchattacks.MultiAttack(attacks)
    return lambda: setting.right(attack(setting.images, setting.labels))


def _autoattack(setting: Setting) -> Callable[[], Tensor]:
    attack = torchattacks.AutoAttack(setting.model.eval(), eps=setting.eps, n_classes=setting.classes)
    return lambda: setting.right(attack(setting.images, setting.labels))


STEPS = {"madry": step_with(_pgd), "trades": step_with(_tpgd), "fgsm_rs": step_with(_ffgsm)}
EVALUATIONS = {"pgd": _restarts, "autoattack": _autoattack}
