"""The PGD step and random start as attack libraries write them."""

import torch


def linf(x_adv, grad, x, step_size, eps):
    x_adv = x_adv + step_size * grad.sign()
    return torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)


def l2(x_adv, grad, x, step_size, eps):
    shape = (-1,) + (1,) * (x.dim() - 1)
    norms = grad.flatten(1).norm(dim=1).view(shape) + 1e-10
    delta = x_adv + step_size * grad / norms - x
    factor = (eps / delta.flatten(1).norm(dim=1).view(shape).clamp_min(1e-12)).clamp(max=1)
    return (x + delta * factor).clamp(0, 1)


def random_start(x, eps):
    return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
