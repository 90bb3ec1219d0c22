"""Lightning Fabric: the loop is yours, Fabric wraps the model; the view is of the model inside.

python examples/fabric_loop.py
"""

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model

from act_engine import AttackView
from act_kernels import PGD


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The last loss of a short training."""
    fabric = Fabric(accelerator="cpu", devices=1)
    model = small_model(dtype=dtype)
    view = AttackView(model)  # of the bare model, before Fabric wraps it; it follows the weights
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    attack = PGD(EPS, STEP_SIZE, STEPS, random_start=False)
    for images, labels in batches(steps, dtype):
        x_adv = attack(view, images, labels) if fused else plain_pgd(model, images, labels)
        loss = F.cross_entropy(wrapped(x_adv), labels)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
    return loss.item()


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"Fabric, {steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
