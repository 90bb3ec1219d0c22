"""A plain PyTorch loop, as the papers' released code has it, in our own words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from setting import Setting
from torch import Tensor

PACKAGE = "torch"
DTYPE: torch.dtype | None = None
"""Of autocast; None: none."""
LAYOUT = torch.contiguous_format


@contextmanager
def frozen_statistics(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode, and then in train mode."""
    model.eval()
    yield
    model.train()


def step_with(attack: Callable[[Setting, Callable, Tensor, Tensor], Tensor], dtype=None, layout=LAYOUT):
    """A loop around `attack`, which gives the adversarial images; TRADES' loss for ``"trades"``, or cross-entropy."""

    def prepare(setting: Setting) -> Callable[[], None]:
        model, optimizer = setting.model.to(memory_format=layout), setting.optimizer()
        x, y = setting.images.contiguous(memory_format=layout), setting.labels

        def logits(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                return model(images).float()

        def step() -> None:
            with frozen_statistics(model):
                x_adv = attack(setting, logits, x, y)
            optimizer.zero_grad()
            if setting.task["name"] == "trades":
                clean = logits(x)
                divergence = F.kl_div(F.log_softmax(logits(x_adv), 1), F.softmax(clean, 1), reduction="batchmean")
                loss = F.cross_entropy(clean, y) + setting.beta * divergence
            else:
                loss = F.cross_entropy(logits(x_adv), y)
            loss.backward()
            optimizer.step()

        return step

    return prepare


def pgd(setting: Setting, logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """PGD on the cross-entropy from a uniform start; with one step of 1.25 eps it is FGSM-RS (Wong et al. 2020)."""
    x_adv = (x + torch.empty_like(x).uniform_(-setting.eps, setting.eps)).clamp(0, 1)
    for _ in range(setting.steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits(x_adv), y), x_adv)
        x_adv = x_adv.detach() + setting.step_size * gradient.sign()
        x_adv = (x + (x_adv - x).clamp(-setting.eps, setting.eps)).clamp(0, 1)
    return x_adv


def trades_pgd(setting: Setting, logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """PGD on the KL divergence, as TRADES' released step: the clean logits are computed anew at every iterate."""
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(setting.steps):
        x_adv.requires_grad_()
        loss = F.kl_div(F.log_softmax(logits(x_adv), 1), F.softmax(logits(x), 1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + setting.step_size * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - setting.eps), x + setting.eps).clamp(0, 1)
    return x_adv


def _evaluation(setting: Setting) -> Callable[[], Tensor]:
    model = setting.model.eval()

    def evaluate() -> Tensor:
        right = setting.right(setting.images)
        for _ in range(setting.restarts):
            right &= setting.right(pgd(setting, model, setting.images, setting.labels))
        return right

    return evaluate


def steps(dtype: torch.dtype | None = None, layout: torch.memory_format = LAYOUT) -> dict[str, Callable]:
    """The three methods."""
    return {
        "madry": step_with(pgd, dtype, layout),
        "trades": step_with(trades_pgd, dtype, layout),
        "fgsm_rs": step_with(pgd, dtype, layout),
    }


STEPS = steps()
EVALUATIONS = {"pgd": _evaluation}
