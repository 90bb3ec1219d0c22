"""The losses as trainers write them, from torch.nn.functional."""

import torch
import torch.nn.functional as F


def _kl(logits, target_logits, temperature):
    log_p, q = F.log_softmax(logits / temperature, dim=1), F.softmax(target_logits / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="batchmean") * temperature**2


def act_loss(robust, natural, labels, alpha=0.9, temperature=4.0):
    robust_loss = (1 - alpha) * F.cross_entropy(robust, labels) + alpha * _kl(robust, natural.detach(), temperature)
    natural_loss = (1 - alpha) * F.cross_entropy(natural, labels) + alpha * _kl(natural, robust.detach(), temperature)
    return robust_loss + natural_loss


def kl_ce_loss(logits, target_logits, labels, temperature=4.0):
    return 0.1 * F.cross_entropy(logits, labels) + 0.9 * _kl(logits, target_logits.detach(), temperature)


def trades_loss(natural, adversarial, labels, beta=6.0):
    return F.cross_entropy(natural, labels) + beta * _kl(adversarial, natural, 1.0)


def attack_grad(logits, target_logits, labels):
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (grad,) = torch.autograd.grad(_kl(leaf, target_logits.detach(), 1.0) * labels.shape[0], leaf)
    return grad
