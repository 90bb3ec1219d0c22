"""trades_before.py with act_kernels: the import, the step and the loss have changed, nothing else."""

import torch
import torch.nn.functional as F

from act_kernels import pgd_step, trades_loss


def train_step(model, optimizer, x, labels, *, eps=8 / 255, step_size=2 / 255, steps=10, beta=6.0):
    """One step of TRADES (Zhang et al., arXiv 1901.08573) on a batch; returns the loss."""
    model.eval()
    with torch.no_grad():
        natural = F.softmax(model(x), dim=1)
    x_adv = x + 0.001 * torch.randn_like(x)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.kl_div(F.log_softmax(model(x_adv), dim=1), natural, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = pgd_step(x_adv, grad, x, step_size, eps)
    model.train()
    natural_logits, adversarial_logits = model(x), model(x_adv)
    loss = trades_loss(natural_logits, adversarial_logits, labels, beta=beta)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
