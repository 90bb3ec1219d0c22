"""pyautoattack's standard evaluation."""

from collections.abc import Callable

import pyautoattack
from setting import Setting
from torch import Tensor

PACKAGE = "pyautoattack"


def _autoattack(setting: Setting) -> Callable[[], Tensor]:
    attack = pyautoattack.AutoAttack(
        setting.model.eval(),
        norm="Linf",
        eps=setting.eps,
        version="standard",
        seed=setting.seed,
        device=setting.images.device,
    )
    wrong = setting.classes - 1
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, wrong)

    def evaluate() -> Tensor:
        x_adv, _ = attack.run_standard_evaluation(setting.images, setting.labels, batch_size=len(setting.labels))
        return setting.right(x_adv)

    return evaluate


STEPS = {}
EVALUATIONS = {"autoattack": _autoattack}
