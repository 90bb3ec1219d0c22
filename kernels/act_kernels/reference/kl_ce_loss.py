"""KL + cross-entropy loss with its gradients: knowledge distillation (Hinton et al., arXiv 1503.02531), TRADES."""

import torch
from torch import Tensor

NO_LOSS, ONE_A_ROW, MEAN, SUM = -1, 0, 1, 2
"""The reductions: the gradients alone are wanted; a loss a row; one of the batch."""


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor | None,
    other_labels: Tensor | None,
    shares: Tensor | None,
    kl_weight: float,
    ce_weight: float,
    target_ce_weight: float,
    temperature: float,
    label_smoothing: float,
    grad_scale: float,
    reduction: int,
    logits_grad: bool,
    target_grad: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Loss of each row and, where asked for, its gradients.

    With z = logits, t = target_logits, T = temperature, p(z) = softmax(z), u = (1 − s) · target + s / C for the label
    smoothing s, CE(z) = − Σ u log p(z), and KL = Σ p(t/T) · (log p(t/T) − log p(z/T)):

        loss      = ce_weight · CE(z) + target_ce_weight · CE(t) + kl_weight · T² · KL
        ∂loss/∂z  = ce_weight · (Σu · p(z) − u) + kl_weight · T · (p(z/T) − p(t/T))
        ∂loss/∂t  = target_ce_weight · (Σu · p(t) − u) + kl_weight · T · p(t/T) · (log p(t/T) − log p(z/T) − KL)

    A row's target: onehot(labels) of `labels` [B]; with `other_labels` [B] too, shares · onehot(labels) + (1 − shares)
    · onehot(other_labels), `shares` [B]; without labels `shares` [B, C] itself (Σu is 1 where that is a distribution).

    Computed in log space in float32 (float64 for float64 logits): stable for any finite logits. A term of weight 0 is
    not there, whatever it would be; a masked logit, −inf, has probability 0. A row whose label is not in [0, C) gives
    NaN.

    Returns the losses in the computing dtype as `reduction` says (one a row [B], their mean, 0 for an empty batch, or
    sum, or None), and grad_scale · ∂loss/∂z and grad_scale · ∂loss/∂t [B, C] in the logits'
    dtype (None when not asked for).
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z, t = logits.to(dtype), target_logits.to(dtype)
    u, inside = _targets(z, labels, other_labels, shares)
    mass = 1 + (1 - label_smoothing) * (u.sum(1, keepdim=True) - 1)
    u = torch.where(inside, (1 - label_smoothing) * u + label_smoothing / z.shape[1], torch.nan)

    log_p, log_p_target = z.log_softmax(1), t.log_softmax(1)
    log_s, log_q = (z / temperature).log_softmax(1), (t / temperature).log_softmax(1)
    log_ratio = log_q - log_s
    kl = (log_q.exp() * log_ratio).sum(1, keepdim=True)
    ce, target_ce = (-torch.where(u == 0, 0, u * log).sum(1, keepdim=True) for log in (log_p, log_p_target))
    known = torch.where(inside, 0.0, torch.nan).to(dtype)

    def total(zero: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
        return sum((weight * term for weight, term in terms if weight != 0), zero)

    losses = total(known, (ce_weight, ce), (target_ce_weight, target_ce), (kl_weight * temperature**2, kl)).squeeze(1)
    zero = known.expand_as(z)
    grad_logits = grad_target = None
    if logits_grad:
        to_logits = log_s.exp() - log_q.exp()
        grad_logits = total(zero, (ce_weight, mass * log_p.exp() - u), (kl_weight * temperature, to_logits))
        grad_logits = (grad_scale * grad_logits).to(logits.dtype)
    if target_grad:
        to_target = log_q.exp() * (log_ratio - kl)
        ce_to_target = mass * log_p_target.exp() - u
        grad_target = total(zero, (target_ce_weight, ce_to_target), (kl_weight * temperature, to_target))
        grad_target = (grad_scale * grad_target).to(logits.dtype)
    return _reduced(losses, reduction), grad_logits, grad_target


def _targets(
    z: Tensor, labels: Tensor | None, other_labels: Tensor | None, shares: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Each row's target before smoothing [B, C], and whether all of its labels are classes [B, 1]."""
    if labels is None:
        return shares.to(z.dtype), torch.ones_like(z[:, :1], dtype=torch.bool)
    share = torch.ones_like(z[:, 0]) if shares is None else shares.to(z.dtype)
    u, inside = torch.zeros_like(z), torch.ones_like(z[:, :1], dtype=torch.bool)
    for of, amount in ((labels, share), (other_labels, 1 - share)):
        if of is not None:
            u.scatter_add_(1, of.clamp(0, z.shape[1] - 1).unsqueeze(1), amount.unsqueeze(1))
            inside &= ((of >= 0) & (of < z.shape[1])).unsqueeze(1)
    return u, inside


def _reduced(losses: Tensor, reduction: int) -> Tensor | None:
    if reduction == NO_LOSS:
        return None
    if reduction == ONE_A_ROW:
        return losses
    return losses.sum() / max(len(losses), 1) if reduction == MEAN else losses.sum()
