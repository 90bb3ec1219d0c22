"""SecML-Torch's `AdversarialTrainer` on a loader of one batch; evaluation by its own PGD, once for each restart."""

from collections.abc import Callable

import torch
from secmlt.adv.backends import Backends
from secmlt.adv.evasion.base_evasion_attack import BaseEvasionAttack
from secmlt.adv.evasion.perturbation_models import LpPerturbationModels
from secmlt.adv.evasion.pgd import PGD
from secmlt.defenses.adv_training.pytorch.adversarial_trainer import AdversarialTrainer
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from setting import Setting
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

PACKAGE = "secml-torch"


def _attack(setting: Setting) -> BaseEvasionAttack:
    return PGD(
        perturbation_model=LpPerturbationModels.LINF,
        epsilon=setting.eps,
        num_steps=setting.steps,
        step_size=setting.step_size,
        random_start=True,
        backend=Backends.NATIVE,
    )


def _loader(setting: Setting) -> DataLoader:
    return DataLoader(TensorDataset(setting.images, setting.labels), batch_size=len(setting.labels))


def _step(setting: Setting) -> Callable[[], None]:
    trainer = AdversarialTrainer(optimizer=setting.optimizer(), epochs=1, loss=torch.nn.CrossEntropyLoss())
    loader, attack = _loader(setting), _attack(setting)
    return lambda: trainer.train(setting.model, loader, attack) and None


def _restarts(setting: Setting) -> Callable[[], Tensor]:
    model, loader, attack = BasePyTorchClassifier(setting.model.eval()), _loader(setting), _attack(setting)

    def evaluate() -> Tensor:
        right = setting.right(setting.images)
        for _ in range(setting.restarts):
            (batch,) = attack(model, loader)
            right &= setting.right(batch[0])
        return right

    return evaluate


STEPS = {"madry": _step, "fgsm_rs": _step}
EVALUATIONS = {"pgd": _restarts}
