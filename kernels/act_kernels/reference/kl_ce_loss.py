"""KL + cross-entropy loss with its gradients: knowledge distillation (Hinton et al., arXiv 1503.02531), TRADES."""

import torch
from torch import Tensor


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    kl_weight: float,
    ce_weight: float,
    target_ce_weight: float,
    temperature: float,
    label_smoothing: float,
    grad_scale: float,
    logits_grad: bool,
    target_grad: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Loss of each row and, where asked for, its gradients.

    With z = logits, t = target_logits, T = temperature, p(z) = softmax(z), u = (1 − s) · onehot(labels) + s / C for the
    label smoothing s, CE(z) = − Σ u log p(z), and KL = Σ p(t/T) · (log p(t/T) − log p(z/T)):

        loss      = ce_weight · CE(z) + target_ce_weight · CE(t) + kl_weight · T² · KL
        ∂loss/∂z  = ce_weight · (p(z) − u) + kl_weight · T · (p(z/T) − p(t/T))
        ∂loss/∂t  = target_ce_weight · (p(t) − u) + kl_weight · T · p(t/T) · (log p(t/T) − log p(z/T) − KL)

    Computed in log space in float32 (float64 for float64 logits): stable for any finite logits. A term of weight 0 is
    not there, whatever it would be; a masked logit, −inf, has probability 0. A row whose label is not in [0, C) gives
    NaN.

    Returns losses [B] in the computing dtype, and grad_scale · ∂loss/∂z and grad_scale · ∂loss/∂t [B, C] in the logits'
    dtype (None when not asked for).
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    z, t = logits.to(dtype), target_logits.to(dtype)
    classes = z.shape[1]
    inside = ((labels >= 0) & (labels < classes)).unsqueeze(1)
    u = torch.full_like(z, label_smoothing / classes)
    u.scatter_add_(1, labels.clamp(0, classes - 1).unsqueeze(1), torch.full_like(z[:, :1], 1 - label_smoothing))
    u = torch.where(inside, u, torch.nan)

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
        grad_logits = total(zero, (ce_weight, log_p.exp() - u), (kl_weight * temperature, log_s.exp() - log_q.exp()))
        grad_logits = (grad_scale * grad_logits).to(logits.dtype)
    if target_grad:
        to_target = log_q.exp() * (log_ratio - kl)
        grad_target = total(zero, (target_ce_weight, log_p_target.exp() - u), (kl_weight * temperature, to_target))
        grad_target = (grad_scale * grad_target).to(logits.dtype)
    return losses, grad_logits, grad_target
