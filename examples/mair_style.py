"""In the manner of MAIR: a trainer class whose calculate_cost makes the adversarial images and their loss.

python examples/mair_style.py
"""

import torch
import torch.nn.functional as F
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model

from act_engine import AttackView
from act_kernels import PGD, trades_loss


class TRADES:
    """Zhang et al. 2019 (arXiv 1901.08573), attacked by cross-entropy for simplicity; `fused`: with act_kernels."""

    def __init__(self, model: torch.nn.Module, fused: bool, beta: float = 6.0) -> None:
        self.model, self.fused, self.beta = model, fused, beta
        self.attack, self.view = PGD(EPS, STEP_SIZE, STEPS, random_start=False), AttackView(model)

    def calculate_cost(self, train_data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = train_data
        x_adv = self.attack(self.view, images, labels) if self.fused else plain_pgd(self.model, images, labels)
        natural, adversarial = self.model(images), self.model(x_adv)
        if self.fused:
            return trades_loss(natural, adversarial, labels, beta=self.beta)
        divergence = F.kl_div(adversarial.log_softmax(1), natural.softmax(1), reduction="batchmean")
        return F.cross_entropy(natural, labels) + self.beta * divergence


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The last loss of a short training."""
    model = small_model(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = TRADES(model, fused)
    for batch in batches(steps, dtype):
        cost = trainer.calculate_cost(batch)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
    return cost.item()


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"a trainer like MAIR's, {steps} steps of TRADES", contenders, rounds)


if __name__ == "__main__":
    main()
