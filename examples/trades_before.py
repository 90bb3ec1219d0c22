"""A plain TRADES training loop in PyTorch, as it is commonly written; trades_after.py is the same with act_kernels."""

import torch
import torch.nn.functional as F


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
        x_adv = x_adv.detach() + step_size * grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    model.train()
    natural_logits, adversarial_logits = model(x), model(x_adv)
    kl = F.kl_div(F.log_softmax(adversarial_logits, dim=1), F.softmax(natural_logits, dim=1), reduction="batchmean")
    loss = F.cross_entropy(natural_logits, labels) + beta * kl
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
