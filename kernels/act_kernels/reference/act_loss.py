"""Both losses of Adversarial Concurrent Training (Arani, Sarfraz, Zonooz, BMVC 2020, arXiv 2008.07015)."""

from torch import Tensor

from .kl_ce_loss import MEAN, kl_ce_loss


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Tensor | None,
    other_labels: Tensor | None,
    shares: Tensor | None,
    robust_alpha: float,
    natural_alpha: float,
    temperature: float,
    grad_scale: float,
    robust_grad: bool,
    natural_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Batch means of the two losses and, where asked for, the gradients of each row's loss.

        robust  = (1 − robust_alpha) · CE(robust) + robust_alpha · T² · KL(natural ‖ robust), gradient to robust
        natural = (1 − natural_alpha) · CE(natural) + natural_alpha · T² · KL(robust ‖ natural), gradient to natural

    with KL between softmaxes at temperature T, and the other model's logits constant: see `kl_ce_loss`.

    Returns the two means in the computing dtype, zero for an empty batch, and grad_scale times the gradient of each
    row's loss (not divided by the batch) to robust_logits and to natural_logits [B, C] in the logits' dtype (None when
    not asked for).
    """
    target = (labels, other_labels, shares)
    robust, grad_robust, _ = kl_ce_loss(
        robust_logits, natural_logits, *target,
        robust_alpha, 1 - robust_alpha, 0.0, temperature, 0.0, grad_scale, MEAN, robust_grad, False,
    )  # fmt: skip
    natural, grad_natural, _ = kl_ce_loss(
        natural_logits, robust_logits, *target,
        natural_alpha, 1 - natural_alpha, 0.0, temperature, 0.0, grad_scale, MEAN, natural_grad, False,
    )  # fmt: skip
    return robust, natural, grad_robust, grad_natural
