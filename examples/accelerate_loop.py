"""Hugging Face Accelerate: prepare() wraps model and optimizer; the view takes the model out of its wrapper by itself.

python examples/accelerate_loop.py
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model

from act_engine import AttackView
from act_kernels import PGD


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The last loss of a short training."""
    accelerator = Accelerator(cpu=True)
    model = small_model(dtype=dtype)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    view = AttackView(model)
    attack = PGD(EPS, STEP_SIZE, STEPS, random_start=False)
    for images, labels in batches(steps, dtype):
        x_adv = attack(view, images, labels) if fused else plain_pgd(model, images, labels)
        loss = F.cross_entropy(model(x_adv), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    return loss.item()


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"Accelerate, {steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
