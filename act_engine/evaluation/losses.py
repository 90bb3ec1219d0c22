"""The losses that an evaluation's attack climbs, by their gradients with respect to the logits."""

from collections.abc import Callable

import torch
from torch import Tensor

from act_kernels import attack_grad

LogitGrad = Callable[[Tensor], Tensor]
"""Logits [B, classes] to the gradient, of the same shape, of the sum of the batch's losses."""

NEEDS_CLASSES = {"ce": 2, "margin": 2, "dlr": 3}
"""Classes that a loss needs; the targeted DLR needs one more."""


def check_loss(loss: str) -> None:
    """Raise ValueError if there is no such loss."""
    if loss not in NEEDS_CLASSES:
        raise ValueError(f"loss: got {loss!r}; allowed: {', '.join(map(repr, NEEDS_CLASSES))}")


def logit_gradient(loss: str, labels: Tensor, targets: Tensor | None = None) -> LogitGrad:
    """The gradient of a loss that grows as the logits z turn from the labels y, or towards the wrong classes t.

    ce: CE(z, y); targeted: −CE(z, t).
    margin: max over k≠y of z_k − z_y (Carlini and Wagner 2017, arXiv 1608.04644); targeted: z_t − z_y.
    dlr: the margin over z_1 − z_3, the first and third largest logits; targeted: over z_1 − (z_3 + z_4) / 2 (Croce and
    Hein 2020, arXiv 2003.01690).
    """
    check_loss(loss)
    if loss == "ce":
        aim, weight = (labels, 1.0) if targets is None else (targets, -1.0)
        return lambda logits: attack_grad(logits, logits, aim, kl_weight=0.0, ce_weight=weight)
    value = {"margin": margin, "dlr": dlr}[loss]

    def gradient(logits: Tensor) -> Tensor:
        leaf = logits.detach().requires_grad_()
        with torch.enable_grad():
            total = value(leaf, labels, targets).sum()
        return torch.autograd.grad(total, leaf)[0]

    return gradient


def margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """How far the largest wrong logit, or the target's, is above the label's: [B]."""
    column = labels.unsqueeze(1)
    wrong = without(logits, labels).amax(1) if targets is None else logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return wrong - logits.gather(1, column).squeeze(1)


def dlr(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The margin relative to the spread of the largest logits, so that the logits' scale does not matter: [B].

    Raises:
        ValueError: there are too few classes.
    """
    classes, needed = logits.shape[1], NEEDS_CLASSES["dlr"] + (targets is not None)
    if classes < needed:
        targeted = "" if targets is None else ", targeted,"
        raise ValueError(f"loss: got 'dlr'{targeted} with {classes} classes; it needs {needed} or more")
    if targets is None:
        top = logits.topk(3).values
        spread = top[:, 0] - top[:, 2]
    else:
        top = logits.topk(4).values
        spread = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return margin(logits, labels, targets) / (spread + 1e-12)


def scaled_margin(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """The margin over the spread of the largest and the smallest logit, for too few classes for the DLR loss: [B].

    Of 2 classes the spread is the margin, and their quotient has no gradient: there it is the margin alone.
    """
    found = margin(logits, labels, targets)
    return found if logits.shape[1] < 3 else found / (logits.amax(1) - logits.amin(1) + 1e-12)


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with −inf at the labels."""
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf)
