"""ART's trainers, fitted on one batch of numpy arrays; evaluation by its `ProjectedGradientDescent`.

Its TRADES trainer is given its PGD, which maximises the cross-entropy: it has no attack on the KL divergence.
"""

from collections.abc import Callable

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.defences.trainer import AdversarialTrainerMadryPGD, AdversarialTrainerTRADESPyTorch
from art.estimators.classification import PyTorchClassifier
from setting import Setting
from torch import Tensor

PACKAGE = "adversarial-robustness-toolbox"


def _classifier(setting: Setting) -> PyTorchClassifier:
    return PyTorchClassifier(
        model=setting.model,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=setting.optimizer() if setting.kind == "step" else None,
        input_shape=tuple(setting.images.shape[1:]),
        nb_classes=setting.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if setting.images.is_cuda else "cpu",
    )


def _arrays(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    return setting.images.cpu().numpy(), setting.labels.cpu().numpy()


def _attack(setting: Setting, classifier: PyTorchClassifier, starts: int) -> ProjectedGradientDescentPyTorch:
    return ProjectedGradientDescentPyTorch(
        classifier,
        eps=setting.eps,
        eps_step=setting.step_size,
        max_iter=setting.steps,
        num_random_init=starts,
        batch_size=len(setting.labels),
        verbose=False,
    )


def _madry(setting: Setting) -> Callable[[], None]:
    size = len(setting.labels)
    trainer = AdversarialTrainerMadryPGD(
        _classifier(setting),
        nb_epochs=1,
        batch_size=size,
        eps=setting.eps,
        eps_step=setting.step_size,
        max_iter=setting.steps,
    )
    x, y = _arrays(setting)
    return lambda: trainer.fit(x, y)


def _trades(setting: Setting) -> Callable[[], None]:
    classifier = _classifier(setting)
    trainer = AdversarialTrainerTRADESPyTorch(classifier, _attack(setting, classifier, 1), beta=setting.beta)
    x, y = _arrays(setting)
    return lambda: trainer.fit(x, y, batch_size=len(y), nb_epochs=1)


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    classifier = _classifier(setting)
    attack = _attack(setting, classifier, setting.restarts)
    x, y = _arrays(setting)
    return lambda: torch.from_numpy(classifier.predict(attack.generate(x, y)).argmax(1) == y)


STEPS = {"madry": _madry, "trades": _trades, "fgsm_rs": _madry}
EVALUATIONS = {"pgd": _restarts}
