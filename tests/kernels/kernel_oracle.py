"""The formulas once more, in float64 and written another way, to hold every implementation against."""

import numpy as np
import torch


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


def pgd_step(x_adv, grad, x, step_size, eps, lower, upper, norm) -> np.ndarray:
    x_adv, grad, x = array(x_adv), array(grad), array(x)
    step_size, eps = _over_samples(step_size, x.ndim), _over_samples(eps, x.ndim)
    lower, upper = _over_channels(lower, x.ndim), _over_channels(upper, x.ndim)
    if norm == "linf":
        delta = np.clip(x_adv + step_size * np.sign(grad) - x, -eps, eps)
        return np.minimum(np.maximum(x + delta, lower), upper)
    axes = tuple(range(1, x.ndim))

    def length(v):
        squares = np.sum(v * v, axis=axes, keepdims=True) if axes else v * v
        return np.sqrt(squares)

    norms = length(grad)
    delta = x_adv - x + step_size * np.divide(grad, norms, out=np.zeros_like(grad), where=norms > 0)
    distance = length(delta)
    delta = delta * np.where(distance > eps, eps / np.where(distance > 0, distance, 1), 1)
    return np.minimum(np.maximum(x + delta, lower), upper)


def _softmax(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and their logarithms, row by row."""
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.exp(log_p), log_p


def cross_entropy(z, labels, smoothing=0.0) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each row, and its gradient."""
    z = array(z)
    wanted = np.full(z.shape, smoothing / z.shape[1])
    wanted[np.arange(len(z)), labels.cpu().numpy()] += 1 - smoothing
    p, log_p = _softmax(z)
    return -(wanted * log_p).sum(axis=1), p - wanted


def kl_divergence(target, z, temperature) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T² · KL(softmax(target / T) ‖ softmax(z / T)) of each row, and its gradients to z and to target."""
    q, log_q = _softmax(array(target) / temperature)
    p, log_p = _softmax(array(z) / temperature)
    ratio = log_q - log_p
    kl = (q * ratio).sum(axis=1)
    scale = temperature**2
    return scale * kl, scale / temperature * (p - q), scale / temperature * q * (ratio - kl[:, None])


def assert_within_budget(result, reference, oracle: np.ndarray, magnitude: float = 0.0, rows: int = 1) -> None:
    """At most twice the error of the reference in the same precision, plus a rounding band.

    The band is four units in the last place of the largest exact value, in the result's dtype; for the reference
    itself, whose error is the yardstick, sixteen of `magnitude` too, the formula's largest intermediate in float32.
    What float16 cannot hold, before a mean over `rows` divides it, must be infinite.
    """
    assert result.shape == oracle.shape
    result_array, reference_array = array(result), array(reference)
    held = np.abs(oracle) * rows <= torch.finfo(result.dtype).max
    assert (np.sign(oracle) * np.inf == result_array)[~held].all()
    oracle = oracle[held]
    if oracle.size == 0:
        return
    error, yardstick = np.abs(result_array[held] - oracle), np.abs(reference_array[held] - oracle)
    largest = float(np.abs(oracle).max())
    band = 4 * torch.finfo(result.dtype).eps * max(largest, torch.finfo(result.dtype).tiny)
    assert yardstick.max() <= band + 16 * torch.finfo(torch.float32).eps * magnitude, "the reference is off"
    assert error.max() <= 2 * yardstick.max() + band
