"""KL + cross-entropy of each row with its gradients, and the kernels that `act_loss` shares.

Rows of up to 4096 classes stay on chip: each matrix is read once, each gradient written once. Wider rows take two
passes: the first keeps running maxima and sums (online softmax), the second reads the row again, from the L2 cache as
long as the rows in flight fit there, and writes the gradients.

With a = (t − max t) / T and b = (z − max z) / T, A = Σ exp(a) and B = Σ exp(b), the divergence is

    KL(softmax(t / T) ‖ softmax(z / T)) = Σ exp(a) (a − b) / A + log (B / A)

where large logits cancel before anything is rounded at their size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference.kl_ce_loss import MEAN, NO_LOSS, ONE_A_ROW
from .images import on_device

# 8 elements a thread: two 16-byte accesses of float32, one of float16, and registers for four exponentials of each.
_TILE = 1024
_WIDEST = 4096


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
    """`act_kernels.reference.kl_ce_loss` for float32, float16 and bfloat16."""
    losses = torch.empty(1, logits.shape[0], dtype=torch.float32, device=logits.device)
    weights = (ce_weight, kl_weight, target_ce_weight, 0.0, temperature, label_smoothing, grad_scale)
    target = (labels, other_labels, shares)
    grads = launch_rows(losses, logits, target_logits, target, weights, logits_grad, target_grad)
    if reduction == NO_LOSS:
        return None, *grads
    return losses[0] if reduction == ONE_A_ROW else reduced(losses, reduction)[0], *grads


def reduced(losses: Tensor, reduction: int) -> list[Tensor]:
    """Mean or sum of each row of `losses` [1 or 2, B], one launch for all."""
    results = [torch.empty((), dtype=torch.float32, device=losses.device) for _ in losses]
    length = losses.shape[1]
    share = 1 / length if reduction == MEAN and length else 1.0
    with on_device(losses):
        _sum_kernel[(len(results),)](
            *results, *[None] * (2 - len(results)), losses, length, share, BLOCK=1024, num_warps=8
        )
    return results


@triton.jit
def _sum_kernel(first, second, values, length, share, BLOCK: tl.constexpr):
    """share · Σ values[i, :length], one program a sum, so that the order is fixed."""
    which = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float64)
    for begin in range(0, length, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        total += tl.load(values + which.to(tl.int64) * length + index, index < length, other=0.0)
    result = tl.sum(total, 0) * share
    if which == 0:
        tl.store(first, result)
    else:
        if second is not None:
            tl.store(second, result)


def launch_rows(
    losses: Tensor,
    first: Tensor,
    second: Tensor,
    target: tuple[Tensor | None, Tensor | None, Tensor | None],
    weights: tuple[float, ...],
    first_grad: bool,
    second_grad: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Write each row's losses into `losses` ([1, B] for kl_ce_loss, [2, B] for act_loss) and return the gradients."""
    rows, classes = first.shape
    grads = tuple(torch.empty_like(first) if wanted else None for wanted in (first_grad, second_grad))
    if rows == 0:
        return grads
    columns = min(triton.next_power_of_2(classes), _WIDEST)
    rows_each = max(_TILE // columns, 1)
    kernel = _rows_kernel if classes <= columns else _wide_rows_kernel
    with on_device(first):
        kernel[(triton.cdiv(rows, rows_each),)](
            losses, *grads, first, second, *target, rows, *weights,
            CLASSES=classes, ROWS=rows_each, COLUMNS=columns,
            ACT=losses.shape[0] == 2, UNIT=weights[4] == 1.0, num_warps=rows_each * columns // 256,
        )  # fmt: skip
    return grads


# `CLASSES` is a compile-time constant: Triton then knows the rows' alignment, without which there are no 16-byte
# accesses, and a training has one class count.
@triton.jit
def _rows_kernel(
    losses, grad_first, grad_second, first, second, labels, other_labels, shares, rows,
    first_ce, first_kl, second_ce, second_kl, temperature, smoothing, grad_scale,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACT: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (row < rows) & (column < CLASSES)
    offsets = row * CLASSES + column
    z = tl.load(first + offsets, mask, other=0.0).to(tl.float32)
    t = tl.load(second + offsets, mask, other=0.0).to(tl.float32)
    z_max = tl.max(tl.where(mask, z, float("-inf")), 1, keep_dims=True)
    t_max = tl.max(tl.where(mask, t, float("-inf")), 1, keep_dims=True)
    z, t = z - z_max, t - t_max

    p, s = _exponentials(z, mask, temperature, UNIT)
    p_target, q = _exponentials(t, mask, temperature, UNIT)
    ratio = tl.where(mask, (t - z) / temperature, 0.0)
    p_sum, p_target_sum = tl.sum(p, 1, keep_dims=True), tl.sum(p_target, 1, keep_dims=True)
    s_sum, q_sum = tl.sum(s, 1, keep_dims=True), tl.sum(q, 1, keep_dims=True)
    mean_ratio = tl.sum(q * ratio, 1, keep_dims=True) / q_sum
    kl = mean_ratio + tl.log(s_sum / q_sum)
    reverse_kl = tl.log(q_sum / s_sum) - tl.sum(s * ratio, 1, keep_dims=True) / s_sum if ACT else kl

    u, inside = _target(labels, other_labels, shares, row, column, row < rows, mask, CLASSES)
    mass = _smoothed_mass(tl.sum(u, 1, keep_dims=True), smoothing)
    z_dot, t_dot = tl.sum(_shared(u, z), 1, keep_dims=True), tl.sum(_shared(u, t), 1, keep_dims=True)
    ce = _cross_entropy(z_dot, mass, tl.sum(tl.where(mask, z, 0.0), 1, keep_dims=True), p_sum, smoothing, CLASSES)
    target_ce = _cross_entropy(
        t_dot, mass, tl.sum(tl.where(mask, t, 0.0), 1, keep_dims=True), p_target_sum, smoothing, CLASSES
    )
    _store_losses(
        losses, row, rows, inside, ce, target_ce, kl, reverse_kl,
        first_ce, first_kl, second_ce, second_kl, temperature, ACT,
    )  # fmt: skip
    _store_gradients(
        grad_first, grad_second, offsets, mask,
        mass * p / p_sum, s / s_sum, mass * p_target / p_target_sum, q / q_sum,
        ratio - mean_ratio,
        _smoothed(u, smoothing, CLASSES),
        first_ce, first_kl, second_ce, second_kl, temperature, tl.where(inside, grad_scale, float("nan")), ACT,
    )  # fmt: skip


@triton.jit
def _wide_rows_kernel(
    losses, grad_first, grad_second, first, second, labels, other_labels, shares, rows,
    first_ce, first_kl, second_ce, second_kl, temperature, smoothing, grad_scale,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACT: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first += row * CLASSES
    second += row * CLASSES
    # Every column of a tile keeps its own sums, all relative to the row's running maxima; a new maximum rescales them.
    # While all of the row is masked (−inf) they are relative to 0, and 0 themselves.
    # kl_sum is relative to z_anchor, the maximum of z when that of t last rose: a later rise of z then leaves it alone,
    # so that where one class has all the mass its ratio and the mean ratio are equal, and the gradient to t is 0.
    z_top = tl.full((), float("-inf"), tl.float32)
    t_top = z_top
    z_max = tl.zeros((), tl.float32)
    t_max, z_anchor = z_max, z_max
    count = tl.zeros((COLUMNS,), tl.float32)
    z_total, t_total = count, count
    p_sum, p_target_sum, s_sum, q_sum = count, count, count, count
    kl_sum, reverse_sum = count, count
    for begin in range(0, CLASSES, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        mask = column < CLASSES
        z = tl.load(first + column, mask, other=0.0).to(tl.float32)
        t = tl.load(second + column, mask, other=0.0).to(tl.float32)
        z_new = tl.maximum(z_top, tl.max(tl.where(mask, z, float("-inf")), 0))
        t_new = tl.maximum(t_top, tl.max(tl.where(mask, t, float("-inf")), 0))
        t_rises = t_new > t_top
        z_rise, t_rise = _rise(z_top, z_new), _rise(t_top, t_new)
        z_top, t_top = z_new, t_new
        z_max, t_max = _finite(z_top), _finite(t_top)
        anchor_rise = tl.where(t_rises, z_max - z_anchor, 0.0)
        z_anchor = tl.where(t_rises, z_max, z_anchor)
        anchored = tl.where(mask, ((t - t_max) - (z - z_anchor)) / temperature, 0.0)
        z, t = z - z_max, t - t_max

        s_shrink, q_shrink = tl.exp(-z_rise / temperature), tl.exp(-t_rise / temperature)
        p, s = _exponentials(z, mask, temperature, UNIT)
        p_target, q = _exponentials(t, mask, temperature, UNIT)
        ratio = tl.where(mask, (t - z) / temperature, 0.0)
        kl_sum = q_shrink * (kl_sum - q_sum * ((t_rise - anchor_rise) / temperature)) + q * anchored
        reverse_sum = s_shrink * (reverse_sum + s_sum * ((t_rise - z_rise) / temperature)) - s * ratio
        s_sum = s_shrink * s_sum + s
        q_sum = q_shrink * q_sum + q
        p_sum = tl.exp(-z_rise) * p_sum + p
        p_target_sum = tl.exp(-t_rise) * p_target_sum + p_target
        z_total = z_total - count * z_rise + tl.where(mask, z, 0.0)
        t_total = t_total - count * t_rise + tl.where(mask, t, 0.0)
        count += mask.to(tl.float32)

    p_sum, p_target_sum, s_sum, q_sum = tl.sum(p_sum, 0), tl.sum(p_target_sum, 0), tl.sum(s_sum, 0), tl.sum(q_sum, 0)
    mean_ratio = tl.sum(kl_sum, 0) / q_sum
    kl = mean_ratio + (z_max - z_anchor) / temperature + tl.log(s_sum / q_sum)
    reverse_kl = tl.sum(reverse_sum, 0) / s_sum + tl.log(q_sum / s_sum)
    z_dots = tl.zeros((COLUMNS,), tl.float32)
    t_dots, masses = z_dots, z_dots
    inside = row >= 0
    for begin in range(0, CLASSES, COLUMNS):
        column = begin + tl.arange(0, COLUMNS)
        mask = column < CLASSES
        u, inside = _target(labels, other_labels, shares, row, column, row < rows, mask, CLASSES)
        here = mask & (u != 0)
        z_dots += _shared(u, tl.load(first + column, here, other=0.0).to(tl.float32) - z_max)
        t_dots += _shared(u, tl.load(second + column, here, other=0.0).to(tl.float32) - t_max)
        masses += u
    mass = _smoothed_mass(tl.sum(masses, 0), smoothing)
    ce = _cross_entropy(tl.sum(z_dots, 0), mass, tl.sum(z_total, 0), p_sum, smoothing, CLASSES)
    target_ce = _cross_entropy(tl.sum(t_dots, 0), mass, tl.sum(t_total, 0), p_target_sum, smoothing, CLASSES)
    _store_losses(
        losses, row, rows, inside, ce, target_ce, kl, reverse_kl,
        first_ce, first_kl, second_ce, second_kl, temperature, ACT,
    )  # fmt: skip

    if grad_first is not None or grad_second is not None:
        for begin in range(0, CLASSES, COLUMNS):
            column = begin + tl.arange(0, COLUMNS)
            mask = column < CLASSES
            z = tl.load(first + column, mask, other=0.0).to(tl.float32)
            t = tl.load(second + column, mask, other=0.0).to(tl.float32) - t_max
            centred_ratio = (t - (z - z_anchor)) / temperature - mean_ratio
            z -= z_max
            p, s = _exponentials(z, mask, temperature, UNIT)
            p_target, q = _exponentials(t, mask, temperature, UNIT)
            u, _ = _target(labels, other_labels, shares, row, column, row < rows, mask, CLASSES)
            _store_gradients(
                grad_first, grad_second, row * CLASSES + column, mask,
                mass * p / p_sum, s / s_sum, mass * p_target / p_target_sum, q / q_sum,
                centred_ratio,
                _smoothed(u, smoothing, CLASSES),
                first_ce, first_kl, second_ce, second_kl, temperature, tl.where(inside, grad_scale, float("nan")), ACT,
            )  # fmt: skip


@triton.jit
def _finite(maximum):
    """What a row's logits are taken relative to: their maximum, or 0 where all are masked."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def _rise(old, new):
    """How much a maximum rose, 0 where nothing had been added relative to it."""
    return tl.where(old == float("-inf"), 0.0, new - old)


@triton.jit
def _exponentials(shifted, mask, temperature, UNIT: tl.constexpr):
    """exp(shifted) and exp(shifted / temperature), 0 outside the row."""
    plain = tl.where(mask, tl.exp(shifted), 0.0)
    soft = plain if UNIT else tl.where(mask, tl.exp(shifted / temperature), 0.0)
    return plain, soft


@triton.jit
def _label(labels, row, exists, CLASSES: tl.constexpr):
    """The row's label, and whether it is a class."""
    label = tl.load(labels + row, exists, other=0)
    return label, (label >= 0) & (label < CLASSES)


@triton.jit
def _target(labels, other_labels, shares, row, column, exists, mask, CLASSES: tl.constexpr):
    """The row's target before smoothing at these columns, and whether its labels are classes."""
    if labels is None:
        u = tl.load(shares + row * CLASSES + column, mask, other=0.0)
        inside = row >= 0
    else:
        label, inside = _label(labels, row, exists, CLASSES)
        if other_labels is None:
            u = tl.where(column == label, 1.0, 0.0)
        else:
            other, other_inside = _label(other_labels, row, exists, CLASSES)
            inside = inside & other_inside
            share = tl.load(shares + row, exists, other=1.0)
            u = tl.where(column == label, share, 0.0) + tl.where(column == other, 1.0 - share, 0.0)
    return u, inside


@triton.jit
def _smoothed(u, smoothing, CLASSES: tl.constexpr):
    return (1 - smoothing) * u + smoothing / CLASSES


@triton.jit
def _smoothed_mass(mass, smoothing):
    """Sum of the smoothed target: exactly 1 for a mass of 1."""
    return 1 + (1 - smoothing) * (mass - 1)


@triton.jit
def _shared(u, value):
    """u · value; a class of share 0 is not there, whatever its logit."""
    return tl.where(u == 0, 0.0, u * value)


@triton.jit
def _cross_entropy(dot, mass, total, exp_sum, smoothing, CLASSES: tl.constexpr):
    """Cross-entropy from logits relative to the row's maximum: their sum weighted by the target, and the plain one."""
    spread = tl.where(smoothing != 0, smoothing / CLASSES * total, 0.0)
    return tl.log(exp_sum) * mass - (1 - smoothing) * dot - spread


@triton.jit
def _weighted(weight, term):
    """weight · term; without weight the term is not there, not even its NaN."""
    return tl.where(weight != 0, weight * term, 0.0)


@triton.jit
def _store_losses(
    losses, row, rows, inside, ce, target_ce, kl, reverse_kl,
    first_ce, first_kl, second_ce, second_kl, temperature, ACT: tl.constexpr,
):  # fmt: skip
    squared = temperature * temperature
    known = tl.where(inside, 0.0, float("nan"))
    loss = _weighted(first_ce, ce) + _weighted(first_kl * squared, kl) + known
    if ACT:
        other = _weighted(second_ce, target_ce) + _weighted(second_kl * squared, reverse_kl) + known
        tl.store(losses + rows + row, other, row < rows)
    else:
        loss += _weighted(second_ce, target_ce)
    tl.store(losses + row, loss, row < rows)


@triton.jit
def _store_gradients(
    grad_first, grad_second, offsets, mask, p, s, p_target, q, centred_ratio, share,
    first_ce, first_kl, second_ce, second_kl, temperature, grad_scale, ACT: tl.constexpr,
):  # fmt: skip
    if grad_first is not None:
        grad = _weighted(first_ce, p - share) + _weighted(first_kl * temperature, s - q)
        tl.store(grad_first + offsets, (grad_scale * grad).to(grad_first.dtype.element_ty), mask)
    if grad_second is not None:
        grad = _weighted(second_ce, p_target - share)
        if ACT:
            grad += _weighted(second_kl * temperature, q - s)
        else:
            grad += _weighted(first_kl * temperature, q * centred_ratio)
        tl.store(grad_second + offsets, (grad_scale * grad).to(grad_second.dtype.element_ty), mask)
