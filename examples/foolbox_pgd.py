"""foolbox's linf PGD with pgd_step inside, on a view of the model: the same adversarial images.

python examples/foolbox_pgd.py
"""

import eagerpy as ep
import foolbox
import torch
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, small_model

from act_engine import AttackView
from act_kernels import PGD


class FusedPGD(foolbox.attacks.LinfPGD):
    """foolbox's attack (cross-entropy, untargeted) by act_kernels' loop; all that foolbox does around it stays."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False)
        self.view = AttackView(module)

    def run(self, model, inputs, criterion, *, epsilon, **others):
        x, restore = ep.astensor_(inputs)
        labels = getattr(criterion, "labels", criterion)  # a criterion, or the labels alone
        attack = PGD(epsilon, self.abs_stepsize, self.steps, random_start=False)
        return restore(ep.astensor(attack(self.view, x.raw, ep.astensor(labels).raw)))


def attacked(fused: bool, count: int, dtype: torch.dtype) -> float:
    """The sum of the adversarial images' values."""
    module = small_model(dtype=dtype).eval()
    usual = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=False)
    model, attack = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu"), FusedPGD(module) if fused else usual
    total = 0.0
    for images, labels in batches(count, dtype):
        _, clipped, _ = attack(model, images, labels, epsilons=EPS)
        total += clipped.double().sum().item()
    return total


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"foolbox": lambda: attacked(False, steps, dtype), "act_kernels": lambda: attacked(True, steps, dtype)}
    return compare(f"foolbox, {steps} batches under PGD-{STEPS}, sum of the images", contenders, rounds)


if __name__ == "__main__":
    main()
