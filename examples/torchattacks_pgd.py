"""torchattacks' PGD with pgd_step inside: the same adversarial images, in fewer passes over memory.

python examples/torchattacks_pgd.py
"""

import time

import torch
import torchattacks

from act_kernels import pgd_step


class FusedPGD(torchattacks.PGD):
    """torchattacks.PGD (linf, untargeted) whose sign step, projection and clamp are one kernel."""

    def forward(self, images, labels):
        x, y = images.detach().to(self.device), labels.to(self.device)
        x_adv = x
        if self.random_start:  # the library's own draw, so that a seed gives its images
            x_adv = (x + torch.empty_like(x).uniform_(-self.eps, self.eps)).clamp(0, 1)
        for _ in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(self.get_logits(x_adv), y)
            (grad,) = torch.autograd.grad(loss, x_adv)
            x_adv = pgd_step(x_adv, grad, x, self.alpha, self.eps)
        return x_adv


def main() -> None:
    from trades import small_model

    model = small_model().eval()
    x, labels = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
    results = {}
    for attack in (torchattacks.PGD, FusedPGD):
        instance = attack(model, eps=8 / 255, alpha=2 / 255, steps=20)
        torch.manual_seed(0)
        begin = time.perf_counter()
        results[attack.__name__] = instance(x, labels)
        print(f"{attack.__name__:9s} {time.perf_counter() - begin:.3f} s")
    difference = (results["PGD"] - results["FusedPGD"]).abs().max().item()
    print(f"largest difference between the adversarial images: {difference:.1e}")


if __name__ == "__main__":
    main()
