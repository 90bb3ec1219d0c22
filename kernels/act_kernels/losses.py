"""The public losses: value and gradients come from one pass over the logits; autograd's backward only scales them."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import checks, ops
from .build_record import torch_ops

_REDUCTIONS = ("mean", "sum", "none")


class ActLoss(NamedTuple):
    """The two losses of Adversarial Concurrent Training, batch means: scalars with independent gradients."""

    robust: Tensor
    natural: Tensor


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Tensor,
    *,
    robust_alpha: float = 0.9,
    natural_alpha: float = 0.9,
    temperature: float = 4.0,
) -> ActLoss:
    """Both losses of Adversarial Concurrent Training (arXiv 2008.07015) from one pass over the two logit matrices.

    robust = (1 − robust_alpha) · CE(robust, labels) + robust_alpha · T² · KL(natural ‖ robust)
    natural = (1 − natural_alpha) · CE(natural, labels) + natural_alpha · T² · KL(robust ‖ natural)

    where KL(q ‖ p) is between softmax(q / T) and softmax(p / T).

    Args:
        robust_logits: of the robust model on adversarial images [B, C], float32, float16, bfloat16 (or float64).
        natural_logits: of the natural model on clean images [B, C], same dtype.
        labels: class indices [B], int64, in [0, C).
        robust_alpha, natural_alpha: weight of the KL term, in [0, 1].
        temperature: T > 0.

    Returns batch means in float32 (float64 for float64 logits); an empty batch gives 0. `robust` sends its gradient to
    robust_logits only, `natural` to natural_logits only, and each can be backpropagated by itself. Stable for any
    finite logits; NaN in, NaN out. There is no second derivative: asking for one raises. A label out of range raises on
    the CPU; on a GPU, where a check would stop the host, it makes that row's loss and gradient NaN. Other errors name
    the argument and what was expected.
    """
    checks.logits_pair("robust_logits", robust_logits, "natural_logits", natural_logits, labels)
    checks.in_range("robust_alpha", robust_alpha, 0, 1)
    checks.in_range("natural_alpha", natural_alpha, 0, 1)
    checks.temperature(temperature)
    stored, remaining = _mean_scales(labels.shape[0], robust_logits.dtype)
    losses, grad_robust, grad_natural = _op("act_loss", robust_logits)(
        robust_logits.detach(),
        natural_logits.detach(),
        labels,
        robust_alpha,
        natural_alpha,
        temperature,
        stored,
        _wants_grad(robust_logits),
        _wants_grad(natural_logits),
    )
    robust, natural = losses.unbind()
    return ActLoss(
        _attach(robust, remaining, (robust_logits, grad_robust)),
        _attach(natural, remaining, (natural_logits, grad_natural)),
    )


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    *,
    kl_weight: float,
    ce_weight: float,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    target_grad: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Knowledge distillation's loss (Hinton et al., arXiv 1503.02531) from one pass over the two logit matrices.

    ce_weight · CE(logits, labels) + kl_weight · T² · KL(softmax(target_logits / T) ‖ softmax(logits / T))

    Args:
        logits, target_logits: [B, C], of one dtype: float32, float16, bfloat16 (or float64).
        labels: class indices [B], int64, in [0, C).
        kl_weight, ce_weight: finite numbers.
        temperature: T > 0.
        label_smoothing: in [0, 1], of the cross-entropy's labels.
        target_grad: also send the gradient to target_logits (it is a constant otherwise).
        reduction: "mean" over the batch, "sum", or "none" for one loss a row [B].

    Returns the loss in float32 (float64 for float64 logits). Gradients, empty batches, stability and errors as in
    `act_loss`.
    """
    checks.logits_pair("logits", logits, "target_logits", target_logits, labels)
    checks.finite("kl_weight", kl_weight)
    checks.finite("ce_weight", ce_weight)
    checks.temperature(temperature)
    checks.in_range("label_smoothing", label_smoothing, 0, 1)
    checks.choice("reduction", reduction, _REDUCTIONS)
    return _pair_loss(
        logits, target_logits, labels, kl_weight, ce_weight, 0.0, temperature, label_smoothing, target_grad, reduction
    )


def trades_loss(natural_logits: Tensor, adversarial_logits: Tensor, labels: Tensor, *, beta: float = 6.0) -> Tensor:
    """TRADES' loss (Zhang et al., arXiv 1901.08573) from one pass over the two logit matrices.

    CE(natural_logits, labels) + beta · KL(softmax(natural_logits) ‖ softmax(adversarial_logits)), batch mean

    Args:
        natural_logits, adversarial_logits: [B, C], of one dtype: float32, float16, bfloat16 (or float64).
        labels: class indices [B], int64, in [0, C).
        beta: finite weight of the KL term.

    The gradient goes to both matrices. Result, empty batches, stability and errors as in `act_loss`.
    """
    checks.logits_pair("natural_logits", natural_logits, "adversarial_logits", adversarial_logits, labels)
    checks.finite("beta", beta)
    return _pair_loss(adversarial_logits, natural_logits, labels, beta, 0.0, 1.0, 1.0, 0.0, True, "mean")


def attack_grad(logits: Tensor, target_logits: Tensor, labels: Tensor, *, kl_weight: float, ce_weight: float) -> Tensor:
    """Gradient of the attack's loss to the logits, computed directly, with no graph.

    ce_weight · (softmax(logits) − onehot(labels)) + kl_weight · (softmax(logits) − softmax(target_logits))

    It is the gradient of the *sum* over the batch of ce_weight · CE + kl_weight · KL(target ‖ logits): each sample's
    attack is its own, and no division by the batch size can make a float16 gradient underflow. Pass it on with
    `torch.autograd.grad(logits, x_adv, grad_outputs=attack_grad(...))`.

    Args, dtypes and errors as in `kl_ce_loss`; returns [B, C] in the logits' dtype, without autograd history.
    """
    checks.logits_pair("logits", logits, "target_logits", target_logits, labels)
    checks.finite("kl_weight", kl_weight)
    checks.finite("ce_weight", ce_weight)
    _, grad, _ = _op("kl_ce_loss", logits)(
        logits.detach(), target_logits.detach(), labels, kl_weight, ce_weight, 0.0, 1.0, 0.0, 1.0, True, False
    )
    return grad


def _pair_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    kl_weight: float,
    ce_weight: float,
    target_ce_weight: float,
    temperature: float,
    label_smoothing: float,
    target_grad: bool,
    reduction: str,
) -> Tensor:
    batch = labels.shape[0]
    stored, remaining = _mean_scales(batch, logits.dtype) if reduction == "mean" else (1.0, 1.0)
    losses, grad_logits, grad_target = _op("kl_ce_loss", logits)(
        logits.detach(),
        target_logits.detach(),
        labels,
        kl_weight,
        ce_weight,
        target_ce_weight,
        temperature,
        label_smoothing,
        stored,
        _wants_grad(logits),
        target_grad and _wants_grad(target_logits),
    )
    if reduction != "none":
        losses = losses.sum()
    if reduction == "mean":
        losses = losses / max(batch, 1)
    return _attach(losses, remaining, (logits, grad_logits), (target_logits, grad_target))


def _mean_scales(batch: int, dtype: torch.dtype) -> tuple[float, float]:
    """Split the mean's 1 / B into the part stored with the gradients and the part left to backward.

    Divided by B, small float16 gradients would underflow before a gradient scaler can lift them: they are stored whole
    (and a row's gradient beyond float16's range is infinite, which a gradient scaler notices).
    """
    mean = 1.0 / max(batch, 1)
    return (1.0, mean) if dtype == torch.float16 else (mean, 1.0)


def _op(name: str, logits: Tensor) -> Callable:
    return getattr(ops, name) if ops.eager(logits) else getattr(torch_ops, name)


def _wants_grad(logits: Tensor) -> bool:
    return (logits.requires_grad and torch.is_grad_enabled()) or _has_tangent(logits)


def _has_tangent(logits: Tensor) -> bool:
    """Whether a derivative along a direction is being taken (forward-mode automatic differentiation)."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(logits).tangent is not None


def _attach(losses: Tensor, scale: float, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Give `losses` (a scalar, or one a row) the gradient scale · grad to each logits whose grad was computed."""
    for logits, grad in pairs:
        if grad.shape == logits.shape and _wants_grad(logits):
            attach = _AttachGradientAndTangent if _has_tangent(logits) else _AttachGradient
            losses = attach.apply(losses, logits, grad, scale)
    return losses


class _AttachGradient(torch.autograd.Function):
    """Identity of `losses` whose backward hands grad_output · scale · grad to `logits`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(losses: Tensor, logits: Tensor, grad: Tensor, scale: float) -> Tensor:
        return losses.view_as(losses)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, logits, grad, scale = inputs
        ctx.save_for_backward(logits, grad)
        ctx.scale = scale

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        logits, grad = ctx.saved_tensors
        factor = grad_output * ctx.scale if ctx.scale != 1 else grad_output
        if _is_last_use(grad, factor):
            # The gradient is ours and nobody will ask for it again: no second matrix.
            return grad_output, grad.mul_(factor.unsqueeze(1) if factor.dim() else factor), None, None
        return grad_output, _ScaleGradient.apply(grad, factor, logits), None, None


class _AttachGradientAndTangent(_AttachGradient):
    """With the derivative along a direction too; by itself, since torch.compile does not trace such functions."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _AttachGradient.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[2])
        ctx.one_a_row = output.dim() == 1

    @staticmethod
    def jvp(ctx, losses_tangent: Tensor, logits_tangent: Tensor, *_: object) -> Tensor:
        (grad,) = ctx.saved_tensors
        along = (grad.to(losses_tangent.dtype) * logits_tangent).sum(1) * ctx.scale
        return losses_tangent + (along if ctx.one_a_row else along.sum())


# autograd.Function inspects forward's signature on every call, which costs more than the loss of a small batch.
_AttachGradient.forward.__signature__ = inspect.signature(_AttachGradient.forward)


def _is_last_use(*tensors: Tensor) -> bool:
    """Whether the running backward frees its graph, outside of any transform that would see a write."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and not any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)
    )


class _ScaleGradient(torch.autograd.Function):
    """grad · factor; `logits` makes it part of a second backward, which raises instead of being silently wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, factor: Tensor, logits: Tensor) -> Tensor:
        factor = factor.unsqueeze(1) if factor.dim() else factor
        return (grad * factor).to(grad.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        raise RuntimeError(
            "act_kernels: the losses have no second derivative; differentiate once, without create_graph=True"
        )
