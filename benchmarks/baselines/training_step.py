"""One ACT training step as a good engineer writes it from the paper, in plain PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def act_step(
    robust: nn.Module,
    natural: nn.Module,
    *,
    eps: float,
    step_size: float,
    steps: int,
    alpha: float,
    temperature: float,
    lr: float,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function of (images [B, C, H, W] in [0, 1], labels [B]) that updates both models and returns both losses."""
    if channels_last:
        robust.to(memory_format=torch.channels_last)
        natural.to(memory_format=torch.channels_last)
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4) for model in (robust, natural)
    ]

    def logits(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            return model(x).float()

    def kl(target: Tensor, output: Tensor, T: float = 1.0) -> Tensor:
        return T * T * F.kl_div(F.log_softmax(output / T, 1), F.softmax(target / T, 1), reduction="batchmean")

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        natural_logits = logits(natural, x)
        target = natural_logits.detach()
        robust.eval()
        x_adv = x + 0.001 * torch.randn_like(x)
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            gradient = torch.autograd.grad(kl(target, logits(robust, x_adv)), x_adv)[0]
            x_adv = x_adv.detach() + step_size * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
        robust.train()
        robust_logits = logits(robust, x_adv)
        robust_loss = (1 - alpha) * F.cross_entropy(robust_logits, y) + alpha * kl(target, robust_logits, temperature)
        natural_loss = (1 - alpha) * F.cross_entropy(natural_logits, y) + alpha * kl(
            robust_logits.detach(), natural_logits, temperature
        )
        for optimizer, loss in zip(optimizers, (robust_loss, natural_loss), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return robust_loss.detach(), natural_loss.detach()

    return step
