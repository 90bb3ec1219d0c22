"""Adversarial training in a loop of your own: PGD as an object, on a frozen and faster copy of the model.

python examples/plain_pytorch.py
"""

import torch
import torch.nn.functional as F
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model

from act_engine import AttackView
from act_kernels import PGD


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The last loss of a short training."""
    model = small_model(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    attack = PGD(EPS, STEP_SIZE, STEPS, random_start=False)  # so that both see the same images
    view = AttackView(model)  # follows the model by itself
    for images, labels in batches(steps, dtype):
        x_adv = attack(view, images, labels) if fused else plain_pgd(model, images, labels)
        loss = F.cross_entropy(model(x_adv), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"{steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
