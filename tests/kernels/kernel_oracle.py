"""The formulas once more, in float64 and written another way, to hold every implementation against."""

from dataclasses import dataclass

import numpy as np
import torch

# What exp() in float32 may lose by returning 0 below the smallest normal number, as the size of a term.
_UNDERFLOW = 2 * torch.finfo(torch.float32).tiny / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Exact:
    """Values in float64, and the sizes of the terms that each is a sum of.

    A term's rounding error is a share of its size, and stays when the terms cancel. The size of a product counts its
    factors' relative errors: that of exp(a), in a's precision, is |a| units in the last place.
    """

    value: np.ndarray
    size: np.ndarray

    def __add__(self, other: "Exact") -> "Exact":
        return Exact(self.value + other.value, self.size + other.size)

    def __rmul__(self, factor: float) -> "Exact":
        return Exact(factor * self.value, abs(factor) * self.size)

    def sum(self) -> "Exact":
        return Exact(self.value.sum(), self.size.sum())


def array(t) -> np.ndarray:
    """A tensor or number in float64; uint8 images mean value / 255."""
    if not isinstance(t, torch.Tensor):
        return np.float64(t)
    values = t.detach().cpu().to(torch.float64).numpy()
    return values / 255 if t.dtype == torch.uint8 else values


def _over_samples(value, dims: int) -> np.ndarray:
    value = array(value)
    return value.reshape((-1,) + (1,) * (dims - 1)) if value.ndim else value


def _over_channels(value, dims: int) -> np.ndarray:
    value = array(value)
    return value.reshape((1, -1) + (1,) * (dims - 2)) if value.ndim else value


def pgd_step(x_adv, grad, x, step_size, eps, lower, upper, norm) -> Exact:
    x_adv, grad, x = array(x_adv), array(grad), array(x)
    step_size, eps = _over_samples(step_size, x.ndim), _over_samples(eps, x.ndim)
    lower, upper = _over_channels(lower, x.ndim), _over_channels(upper, x.ndim)
    size = np.abs(x_adv) + np.abs(x) + np.abs(step_size)
    if norm == "linf":
        delta = np.clip(x_adv + step_size * np.sign(grad) - x, -eps, eps)
        return Exact(np.minimum(np.maximum(x + delta, lower), upper), size)
    axes = tuple(range(1, x.ndim))

    def length(v):
        squares = np.sum(v * v, axis=axes, keepdims=True) if axes else v * v
        return np.sqrt(squares)

    norms = length(grad)
    delta = x_adv - x + step_size * np.divide(grad, norms, out=np.zeros_like(grad), where=norms > 0)
    distance = length(delta)
    delta = delta * np.where(distance > eps, eps / np.where(distance > 0, distance, 1), 1)
    return Exact(np.minimum(np.maximum(x + delta, lower), upper), size)


def _softmax(z: np.ndarray) -> tuple[Exact, Exact]:
    """Probabilities, row by row, and their logarithms."""
    shifted = z - z.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    log_p = Exact(shifted - log_sum, np.abs(shifted) + log_sum + 1)  # 1: the sum's own rounding, which log_sum may hide
    p = np.exp(log_p.value)
    masked = np.where(p > 0, log_p.size, 0)  # a masked class, of logit −inf, has probability 0, exactly
    return Exact(p, p * masked + _UNDERFLOW), log_p


def targets(labels, rows: int, classes: int) -> np.ndarray:
    """Each row's distribution: of class indices, of a pair with a share, or given."""
    if isinstance(labels, tuple):
        first, second, share = labels
        share = np.broadcast_to(array(share), (rows,))[:, None]
        return share * targets(first, rows, classes) + (1 - share) * targets(second, rows, classes)
    if labels.is_floating_point():
        return array(labels)
    wanted = np.zeros((rows, classes))
    wanted[np.arange(rows), labels.cpu().numpy()] = 1
    return wanted


def cross_entropy(z, labels, smoothing=0.0) -> tuple[Exact, Exact]:
    """Loss of each row, and its gradient."""
    z = array(z)
    wanted = (1 - smoothing) * targets(labels, *z.shape) + smoothing / z.shape[1]
    mass = wanted.sum(axis=1, keepdims=True)
    p, log_p = _softmax(z)
    terms = np.where(wanted == 0, 0, wanted * np.where(wanted == 0, 0, log_p.value))
    sizes = np.where(wanted == 0, 0, wanted * np.where(wanted == 0, 0, log_p.size))
    return Exact(-terms.sum(axis=1), sizes.sum(axis=1)), Exact(mass * p.value - wanted, mass * p.size + wanted)


def kl_divergence(target, z, temperature) -> tuple[Exact, Exact, Exact]:
    """T² · KL(softmax(target / T) ‖ softmax(z / T)) of each row, and its gradients to z and to target."""
    q, log_q = _softmax(array(target) / temperature)
    p, log_p = _softmax(array(z) / temperature)
    ratio = log_q + -1.0 * log_p
    kl = Exact((q.value * ratio.value).sum(axis=1), (q.size * ratio.size).sum(axis=1))
    centred = Exact(ratio.value - kl.value[:, None], ratio.size + kl.size[:, None])
    to_z = p + -1.0 * q
    to_target = Exact(q.value * centred.value, q.size * np.abs(centred.value) + q.value * centred.size)
    return temperature**2 * kl, temperature * to_z, temperature * to_target


def assert_within_budget(result, reference, exact: Exact, rows: int = 1) -> None:
    """Each element: at most twice the error of the reference in the same precision, plus a rounding band of its own.

    The band of an element is four units in the last place of its own exact value in the result's dtype, and of its own
    terms' size in float32; a unit of a result near zero is the dtype's smallest number. The reference itself, whose
    error is the yardstick, has four times that. What float16 cannot hold, before a mean over `rows` divides it, must be
    infinite.
    """
    assert result.shape == exact.value.shape
    result_array, reference_array = array(result), array(reference)
    held = np.abs(exact.value) * rows <= torch.finfo(result.dtype).max
    assert (np.copysign(np.inf, exact.value) == result_array)[~held].all()
    value = exact.value[held]
    error, yardstick = np.abs(result_array[held] - value), np.abs(reference_array[held] - value)
    eps, tiny = torch.finfo(result.dtype).eps, torch.finfo(result.dtype).tiny
    own = eps * np.maximum(np.abs(value), tiny)
    band = 4 * (own + torch.finfo(torch.float32).eps * exact.size[held])
    assert (yardstick <= 4 * band).all(), "the reference is off"
    allowed = 2 * yardstick + band
    assert (error <= allowed).all(), f"{(error / allowed).max():.3g} times the budget"
