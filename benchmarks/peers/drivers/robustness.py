"""MadryLab's robustness: the loop of its `train_model` over one batch, and its random restarts.

The library calls `.cuda()` on what it is given. Where there is no GPU that is made to do nothing; all else is its own.
"""

from collections.abc import Callable
from types import SimpleNamespace

import torch
from cox.utils import Parameters
from robustness import train
from robustness.attacker import AttackerModel
from robustness.model_utils import DummyModel
from setting import Setting
from torch import Tensor

PACKAGE = "robustness"
if not torch.cuda.is_available():
    torch.Tensor.cuda = lambda self, *_, **__: self


def _attacker(setting: Setting) -> AttackerModel:
    channels = setting.images.shape[1]
    statistics = SimpleNamespace(mean=torch.zeros(channels), std=torch.ones(channels))
    return AttackerModel(_Forward(setting.model), statistics).to(setting.images.device)


class _Forward(DummyModel):
    """The library passes its models options of its own, which it advises custom architectures to ignore."""


def _attack(setting: Setting) -> dict:
    return {"constraint": "inf", "eps": setting.eps, "random_start": True, "use_best": False}


def _step(setting: Setting) -> Callable[[], None]:
    model, optimizer = _attacker(setting), setting.optimizer()
    options = {"attack_lr": setting.step_size, "attack_steps": setting.steps, "random_restarts": 0}
    options |= {"custom_eps_multiplier": None, "mixed_precision": False, "adv_train": 1, **_attack(setting)}
    arguments = Parameters(options)
    return lambda: train._model_loop(arguments, "train", setting.loader(), model, optimizer, 0, True, None) and None


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    model = _attacker(setting).eval()

    def evaluate() -> Tensor:
        _, x_adv = model(
            setting.images,
            setting.labels,
            make_adv=True,
            step_size=setting.step_size,
            iterations=setting.steps,
            random_restarts=setting.restarts,
            **_attack(setting),
        )
        return setting.right(x_adv)

    return evaluate


STEPS = {"madry": _step, "fgsm_rs": _step}
EVALUATIONS = {"pgd": _restarts}
