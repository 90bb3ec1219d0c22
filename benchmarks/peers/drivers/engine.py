"""act_engine, as its recipes train: bfloat16 on the folded view, channels_last; evaluations in float32."""

import contextlib
from collections.abc import Callable

import torch
from setting import Setting
from torch import Tensor

import act_engine
from act_engine.config import from_mapping
from act_engine.objectives import build_objective
from act_engine.parallel import connect
from act_engine.training.build import make_learners, make_step
from act_engine.training.resolve import resolve

PACKAGE = "act-engine"
METHODS = {"madry": {"name": "madry"}, "trades": {"name": "trades"}, "fgsm_rs": {"name": "madry"}}


def _step(setting: Setting) -> Callable[[], None]:
    name = setting.task["name"]
    objective = METHODS[name] | ({"beta": setting.beta} if name == "trades" else {})
    config = from_mapping(
        {
            "objective": objective,
            "attack": {"eps": setting.eps, "step_size": setting.step_size, "steps": setting.steps},
            "data": {"batch_size": len(setting.labels)},
            "optim": {
                "lr": setting.lr,
                "momentum": setting.momentum,
                "weight_decay": setting.weight_decay,
                "schedule": "constant",
            },
            "train": {"precision": setting.precision, "compile": torch.cuda.is_available(), "epochs": 1},
        }
    )
    world = connect(setting.images.device)
    method = build_objective(**config.objective.method())
    config = resolve(config, method, world, setting.classes)
    learners = make_learners(config, {"robust": setting.model}, world, steps_per_epoch=1)
    step = make_step(config, method, learners, {}, world, steps_per_epoch=1)
    return lambda: step(setting.images, setting.labels) and None


def _evaluation(attack: str) -> Callable[[Setting], Callable[[], Tensor]]:
    def prepare(setting: Setting) -> Callable[[], Tensor]:
        from act_engine.attack import AttackView
        from act_engine.evaluation.attacks import PGDAttack, Place
        from act_engine.evaluation.autoattack import AutoAttack
        from act_engine.evaluation.premises import WatchedView, is_right

        model = setting.model.eval()
        if attack == "pgd":
            run = PGDAttack(setting.eps, setting.step_size, setting.steps, setting.restarts)
        else:
            run = AutoAttack(model, setting.eps)

        def evaluate() -> Tensor:
            view = AttackView(model)
            with view.ready(), contextlib.ExitStack():
                with torch.no_grad():
                    clean = is_right(view(setting.images), setting.labels)
                place = Place(0, len(setting.labels), setting.seed)
                return run(WatchedView(view), setting.images, setting.labels, clean, place)[-1]

        return evaluate

    return prepare


STEPS = dict.fromkeys(METHODS, _step)
EVALUATIONS = {"pgd": _evaluation("pgd"), "autoattack": _evaluation("autoattack")}
assert act_engine
