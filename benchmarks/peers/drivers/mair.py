"""MAIR's trainers `AT` and `TRADES`, fitted on a loader of one batch; evaluation by its `RobModel`."""

from collections.abc import Callable

import mair
import torch
from mair import attacks
from mair.defenses import AT, TRADES
from setting import Setting
from torch import Tensor

PACKAGE = "mair"


def _robust(setting: Setting) -> mair.RobModel:
    return mair.RobModel(setting.model, n_classes=setting.classes)


def _fit(trainer: mair.defenses.trainer.Trainer, setting: Setting) -> Callable[[], None]:
    trainer.setup(optimizer=setting.optimizer())
    return lambda: trainer.fit(setting.loader(), n_epochs=1, record_type=None, save_type=None)


def _madry(setting: Setting) -> Callable[[], None]:
    return _fit(AT(_robust(setting), setting.eps, setting.step_size, setting.steps), setting)


def _trades(setting: Setting) -> Callable[[], None]:
    return _fit(TRADES(_robust(setting), setting.eps, setting.step_size, setting.steps, setting.beta), setting)


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    model = _robust(setting).eval()
    attack = attacks.MultiAttack(
        [attacks.PGD(model, setting.eps, setting.step_size, setting.steps) for _ in range(setting.restarts)]
    )
    return lambda: setting.right(attack(setting.images, setting.labels))


def _autoattack(setting: Setting) -> Callable[[], Tensor]:
    attack = attacks.AutoAttack(_robust(setting).eval(), eps=setting.eps, n_classes=torch.tensor(setting.classes))
    return lambda: setting.right(attack(setting.images, setting.labels))


STEPS = {"madry": _madry, "trades": _trades, "fgsm_rs": _madry}
EVALUATIONS = {"pgd": _restarts, "autoattack": _autoattack}
