"""The public losses: value and gradients come from one pass over the logits; autograd's backward only scales them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import checks, ops
from .build_record import torch_ops
from .checks import Labels
from .reference.kl_ce_loss import MEAN, NO_LOSS, ONE_A_ROW, SUM

_REDUCTIONS = {"mean": MEAN, "sum": SUM, "none": ONE_A_ROW}


class ActLoss(NamedTuple):
    """The two losses of Adversarial Concurrent Training, batch means: scalars with independent gradients."""

    robust: Tensor
    natural: Tensor


def act_loss(
    robust_logits: Tensor,
    natural_logits: Tensor,
    labels: Labels,
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
        natural_logits: of the natural model on clean images [B, C]; of two dtypes both are taken in the wider.
        labels: class indices [B], int64, in [0, C); or (labels, other_labels, share) for two classes a row, as MixUp
            and CutMix make them, with the first one's share in [0, 1], a number or [B]; or a distribution a row [B, C].
        robust_alpha, natural_alpha: weight of the KL term, in [0, 1].
        temperature: T > 0.

    Returns batch means in float32 (float64 for float64 logits); an empty batch gives 0. `robust` sends its gradient to
    robust_logits only, `natural` to natural_logits only, and each can be backpropagated by itself. Stable for any
    finite logits; NaN in, NaN out. There is no second derivative: asking for one raises. A label out of range raises on
    the CPU; on a GPU, where a check would stop the host, it makes that row's loss and gradient NaN. Other errors name
    the argument and what was expected.
    """
    wanted = _wants_grad(robust_logits), _wants_grad(natural_logits)
    stored, remaining = _mean_scales(robust_logits)
    numbers = (robust_alpha, natural_alpha, temperature, stored, *wanted)
    run = ops.direct("act_loss", robust_logits, natural_logits, labels)
    results = run and run(robust_logits, natural_logits, labels, None, None, *numbers)
    if not results:
        robust_logits, natural_logits = checks.logits_pair(
            "robust_logits", robust_logits, "natural_logits", natural_logits
        )
        target = checks.targets(labels, "robust_logits", robust_logits)
        checks.in_range("robust_alpha", robust_alpha, 0, 1)
        checks.in_range("natural_alpha", natural_alpha, 0, 1)
        checks.temperature(temperature)
        stored, remaining = _mean_scales(robust_logits)
        numbers = (robust_alpha, natural_alpha, temperature, stored, *wanted)
        results = _op("act_loss", robust_logits)(robust_logits.detach(), natural_logits.detach(), *target, *numbers)
    robust, natural, robust_grad, natural_grad = results
    return ActLoss(
        _attach(robust, robust_logits, robust_grad, remaining),
        _attach(natural, natural_logits, natural_grad, remaining),
    )


def kl_ce_loss(
    logits: Tensor,
    target_logits: Tensor,
    labels: Labels,
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
        logits, target_logits: [B, C], float32, float16, bfloat16 (or float64).
        labels: as in `act_loss`.
        kl_weight, ce_weight: finite numbers.
        temperature: T > 0.
        label_smoothing: in [0, 1], of the cross-entropy's labels.
        target_grad: also send the gradient to target_logits (it is a constant otherwise).
        reduction: "mean" over the batch, "sum", or "none" for one loss a row [B].

    Returns the loss in float32 (float64 for float64 logits). Gradients, empty batches, stability and errors as in
    `act_loss`.
    """
    checks.choice("reduction", reduction, _REDUCTIONS)
    weights = (kl_weight, ce_weight, 0.0)
    return _pair_loss(
        ("logits", logits), ("target_logits", target_logits), labels, weights, temperature, label_smoothing,
        target_grad, reduction,
    )  # fmt: skip


def trades_loss(
    natural_logits: Tensor,
    adversarial_logits: Tensor,
    labels: Labels,
    *,
    beta: float = 6.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """TRADES' loss (Zhang et al., arXiv 1901.08573) from one pass over the two logit matrices.

    CE(natural_logits, labels) + beta · KL(softmax(natural_logits) ‖ softmax(adversarial_logits)), batch mean

    Args:
        natural_logits, adversarial_logits: [B, C], float32, float16, bfloat16 (or float64).
        labels: as in `act_loss`.
        beta: finite weight of the KL term.
        label_smoothing: in [0, 1], of the cross-entropy's labels.

    The gradient goes to both matrices. Result, empty batches, stability and errors as in `act_loss`.
    """
    checks.finite("beta", beta, adversarial_logits)
    return _pair_loss(
        ("adversarial_logits", adversarial_logits), ("natural_logits", natural_logits), labels, (beta, 0.0, 1.0), 1.0,
        label_smoothing, True, "mean",
    )  # fmt: skip


def attack_grad(logits: Tensor, target_logits: Tensor, labels: Labels, *, kl_weight: float, ce_weight: float) -> Tensor:
    """Gradient of the attack's loss to the logits, computed directly, with no graph.

    ce_weight · (softmax(logits) − onehot(labels)) + kl_weight · (softmax(logits) − softmax(target_logits))

    It is the gradient of the *sum* over the batch of ce_weight · CE + kl_weight · KL(target ‖ logits): each sample's
    attack is its own, and no division by the batch size can make a float16 gradient underflow. Pass it on with
    `torch.autograd.grad(logits, x_adv, grad_outputs=attack_grad(...))`.

    Args, dtypes and errors as in `kl_ce_loss`; returns [B, C] in the logits' dtype, without autograd history.
    """
    numbers = (kl_weight, ce_weight, 0.0, 1.0, 0.0, 1.0, NO_LOSS, True, False)
    run = ops.direct("kl_ce_loss", logits, target_logits, labels)
    in_range = abs(kl_weight) <= checks.LARGEST and abs(ce_weight) <= checks.LARGEST
    results = run and in_range and run(logits, target_logits, labels, None, None, *numbers)
    if results:
        return results[1]
    wide, wide_target = checks.logits_pair("logits", logits, "target_logits", target_logits)
    target = checks.targets(labels, "logits", wide)
    checks.finite("kl_weight", kl_weight, wide)
    checks.finite("ce_weight", ce_weight, wide)
    _, grad, _ = _op("kl_ce_loss", wide)(wide.detach(), wide_target.detach(), *target, *numbers)
    return grad.to(logits.dtype)


def _pair_loss(
    named_logits: tuple[str, Tensor],
    named_target: tuple[str, Tensor],
    labels: Labels,
    weights: tuple[float, float, float],
    temperature: float,
    label_smoothing: float,
    target_grad: bool,
    reduction: str,
) -> Tensor:
    (name, logits), (target_name, target_logits) = named_logits, named_target
    scales = _mean_scales(logits) if reduction == "mean" else (1.0, 1.0)
    wanted = _wants_grad(logits), target_grad and _wants_grad(target_logits)
    numbers = (*weights, temperature, label_smoothing, scales[0], _REDUCTIONS[reduction], *wanted)
    run = ops.direct("kl_ce_loss", logits, target_logits, labels)
    in_range = abs(weights[0]) <= checks.LARGEST and abs(weights[1]) <= checks.LARGEST
    results = run and in_range and run(logits, target_logits, labels, None, None, *numbers)
    if not results:
        logits, target_logits = checks.logits_pair(name, logits, target_name, target_logits)
        target = checks.targets(labels, name, logits)
        checks.finite("kl_weight", weights[0], logits)
        checks.finite("ce_weight", weights[1], logits)
        checks.temperature(temperature)
        checks.in_range("label_smoothing", label_smoothing, 0, 1)
        scales = _mean_scales(logits) if reduction == "mean" else scales
        numbers = (*weights, temperature, label_smoothing, scales[0], _REDUCTIONS[reduction], *wanted)
        results = _op("kl_ce_loss", logits)(logits.detach(), target_logits.detach(), *target, *numbers)
    loss, grad, grad_of_target = results
    return _attach(loss, logits, grad, scales[1], target_logits, grad_of_target)


def _mean_scales(logits: Tensor) -> tuple[float, float]:
    """Split the mean's 1 / B into the part stored with the gradients and the part left to backward.

    Divided by B, small float16 gradients would underflow before a gradient scaler can lift them: they are stored whole
    (and a row's gradient beyond float16's range is infinite, which a gradient scaler notices).
    """
    mean = 1.0 / max(logits.shape[0], 1) if logits.dim() else 1.0
    return (1.0, mean) if logits.dtype == torch.float16 else (mean, 1.0)


def _op(name: str, logits: Tensor) -> Callable:
    return getattr(ops, name) if ops.eager(logits) else getattr(torch_ops, name)


def _wants_grad(logits: Tensor) -> bool:
    return (logits.requires_grad and torch.is_grad_enabled()) or _has_tangent(logits)


def _has_tangent(logits: Tensor) -> bool:
    """Whether a derivative along a direction is being taken (forward-mode automatic differentiation)."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    return forward_ad.unpack_dual(logits).tangent is not None


def _attach(
    loss: Tensor,
    first: Tensor,
    first_grad: Tensor | None,
    scale: float,
    second: Tensor | None = None,
    second_grad: Tensor | None = None,
) -> Tensor:
    """Give `loss` (a scalar, or one a row) the gradients scale · grad to the logits for which they were computed."""
    first_grad, second_grad = _wanted(first, first_grad), _wanted(second, second_grad)
    if first_grad is None and second_grad is None:
        return loss
    arguments = (loss, first, second, first_grad, second_grad, scale)
    if ops.eager(loss):
        return _attach_now(*arguments)[0]
    tangents = _has_tangent(first) or (second is not None and _has_tangent(second))
    return (_AttachGradientsAndTangents if tangents else _AttachGradients).apply(*arguments)[0]


def _wanted(logits: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """`grad` where `logits` wants one; an op that computed none gave an empty one."""
    return grad if grad is not None and grad.dim() == 2 and _wants_grad(logits) else None


class _AttachNow(torch.autograd.Function):
    """Identity of the loss, whose backward hands grad_output · scale · grad to the logits.

    Its second result holds nothing and is saved for a second backward, which through it reaches the logits, and raises.
    (The logits themselves would do too, but would live until backward, and could not be written to.)
    """

    @staticmethod
    def forward(ctx, loss, first, second, first_grad, second_grad, scale) -> tuple[Tensor, Tensor]:
        edge = torch.empty(0, device=loss.device)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(first_grad, second_grad, edge)
        ctx.scale = scale
        return loss, edge

    @staticmethod
    def backward(ctx, grad_output: Tensor, _):
        first_grad, second_grad, edge = ctx.saved_tensors
        if grad_output is None:
            first_grad = second_grad = None
        elif not _is_last_use(grad_output):
            first_grad, second_grad = (
                None if grad is None else _ScaleGradient.apply(grad, grad_output, edge, ctx.scale)
                for grad in (first_grad, second_grad)
            )
        elif grad_output.dim():
            factor = (grad_output * ctx.scale).unsqueeze(1)
            for grad in (first_grad, second_grad):
                if grad is not None:
                    grad.mul_(factor)
        else:
            ops.rescale_(first_grad, second_grad, grad_output, ctx.scale)
        return grad_output, first_grad, second_grad, None, None, None


_attach_now = super(torch.autograd.Function, _AttachNow).apply
"""`apply` outside of any transform, without what the class's own does for those: it costs as much as a small loss."""


class _AttachGradients(torch.autograd.Function):
    """`_AttachNow` in the form that torch.compile and functorch's transforms take."""

    generate_vmap_rule = True
    backward = _AttachNow.backward

    @staticmethod
    def forward(loss, first, second, first_grad, second_grad, scale) -> tuple[Tensor, Tensor]:
        return loss.view_as(loss), first.new_empty(0)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *_, first_grad, second_grad, scale = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(first_grad, second_grad, output[1])
        ctx.scale = scale


class _AttachGradientsAndTangents(_AttachGradients):
    """With the derivative along a direction too; by itself, since torch.compile does not trace such functions."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _AttachGradients.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[3:5])
        ctx.one_a_row = output[0].dim() == 1
        ctx.dtype = output[0].dtype

    @staticmethod
    def jvp(ctx, loss_tangent, *tangents) -> tuple[Tensor, Tensor]:
        along, device = 0, None
        for grad, tangent in zip(ctx.saved_tensors, tangents[:2], strict=True):
            if grad is not None and tangent is not None:
                rows = (grad.to(ctx.dtype) * tangent).sum(1) * ctx.scale
                along, device = along + (rows if ctx.one_a_row else rows.sum()), rows.device
        return along, torch.empty(0, device=device)


def _is_last_use(factor: Tensor) -> bool:
    """Whether the running backward frees its graph, outside of any transform that would see a write."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and not torch._C._functorch.is_functorch_wrapped_tensor(factor)
        and not torch._C._functorch.is_legacy_batchedtensor(factor)  # autograd.grad(is_grads_batched=True)
    )


class _ScaleGradient(torch.autograd.Function):
    """scale · factor · grad; `edge` makes it part of a second backward, which raises, instead of being silently 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, factor: Tensor, edge: Tensor, scale: float) -> Tensor:
        factor = factor.unsqueeze(1) if factor.dim() else factor
        return (grad * (factor * scale)).to(grad.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        raise RuntimeError(
            "act_kernels: the losses have no second derivative; differentiate once, without create_graph=True"
        )
