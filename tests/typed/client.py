"""A small client of both packages, as a user with strict types writes it."""

import torch
from torch import Tensor, nn

import act_engine
from act_kernels import (
    PGD,
    ActLoss,
    act_loss,
    attack_grad,
    kl_ce_loss,
    pgd_step,
    random_start,
    trades_loss,
    use_backend,
)


def losses(robust: Tensor, natural: Tensor, labels: Tensor) -> Tensor:
    both: ActLoss = act_loss(robust, natural, labels, temperature=4.0)
    mixed = kl_ce_loss(robust, natural, labels, kl_weight=0.5, ce_weight=0.5)
    return both.robust + both.natural + mixed + trades_loss(natural, robust, labels, beta=6.0)


def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    view = act_engine.AttackView(model, precision="bfloat16")
    start = random_start(images, 8 / 255, kind="uniform")
    gradient = attack_grad(view(start), view(images), labels, kl_weight=0.0, ce_weight=1.0)
    with use_backend("reference"):
        moved = pgd_step(start, torch.zeros_like(start) + gradient.sum(), images, 2 / 255, 8 / 255)
    return PGD(8 / 255, 2 / 255, steps=10)(view, moved, labels)


def trained(loader: list[tuple[Tensor, Tensor]]) -> float | None:
    result = act_engine.fit(
        {"robust": nn.Flatten(), "natural": nn.Flatten()}, loader, objective="act", eps=0.1, epochs=1
    )
    report = act_engine.robustness(result.models["robust"], loader, eps=0.1, attack="pgd", steps=10)
    return report.robust_accuracy


VERSION: str = act_engine.__version__
