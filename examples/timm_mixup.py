"""timm's training loop with MixUp: its mixed labels [batch, classes] go into the attack as they are.

python examples/timm_mixup.py
"""

import numpy as np
import torch
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2

from act_engine import AttackView
from act_kernels import PGD


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The last loss of a short training."""
    np.random.seed(0)  # noqa: NPY002 (what timm's Mixup draws from)
    model = small_model(dtype=dtype)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9)
    mixup, criterion = Mixup(mixup_alpha=0.8, num_classes=10, label_smoothing=0.1), SoftTargetCrossEntropy()
    attack, view = PGD(EPS, STEP_SIZE, STEPS, random_start=False), AttackView(model)
    for images, labels in batches(steps, dtype):
        images, targets = mixup(images, labels)
        targets = targets.to(images.dtype)
        x_adv = attack(view, images, targets) if fused else plain_pgd(model, images, targets)
        loss = criterion(model(x_adv), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"timm with MixUp, {steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
