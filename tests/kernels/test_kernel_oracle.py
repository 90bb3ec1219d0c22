"""The oracle's budget itself: what a right kernel computes passes it, and faults in small entries do not."""

import kernel_oracle as oracle
import pytest
import torch

from act_kernels import reference
from act_kernels.reference.kl_ce_loss import NO_LOSS

_KL, _CE, _TEMPERATURE, _SMOOTHING = 0.9, 0.1, 4.0, 0.1


def _case(dtype):
    """Logits, labels and the exact gradient to the logits, of 100 classes whose entries span five powers of ten."""
    generator = torch.Generator().manual_seed(0)
    z, t = (6 * torch.randn(13, 100, generator=generator) for _ in range(2))
    z, t, labels = z.to(dtype), t.to(dtype), torch.randint(0, 100, (13,), generator=generator)
    exact = _CE * oracle.cross_entropy(z, labels, _SMOOTHING)[1] + _KL * oracle.kl_divergence(t, z, _TEMPERATURE)[1]
    return z, t, labels, exact


def _gradient(z, t, labels, smoothing=_SMOOTHING):
    arguments = (labels, None, None, _KL, _CE, 0.0, _TEMPERATURE, smoothing, 1.0, NO_LOSS, True, False)
    return reference.kl_ce_loss(z, t, *arguments)[1]


def _small_entries_lost(gradient, *_):
    return torch.where(gradient.abs() < 0.03 * gradient.abs().max(), 0, gradient)


def _no_smoothing_beside_the_label(gradient, z, t, labels):
    at_label = torch.zeros_like(gradient, dtype=torch.bool).scatter(1, labels.unsqueeze(1), True)
    return torch.where(at_label, gradient, _gradient(z, t, labels, smoothing=0.0))


def _coarse_exponentials(gradient, z, t, labels):
    """An exp() that is wrong by 2 %: what a short polynomial gives far from its middle."""
    z, t = z.float(), t.float()
    soft = (z / _TEMPERATURE).softmax(1) - 1.02 * (t / _TEMPERATURE).softmax(1)
    plain = z.softmax(1) - _SMOOTHING / z.shape[1]
    result = _CE * plain + _KL * _TEMPERATURE * soft
    result.scatter_add_(1, labels.unsqueeze(1), torch.full_like(result[:, :1], _CE * (_SMOOTHING - 1)))
    return result.to(gradient.dtype)


def _stale_end_of_row(gradient, *_):
    """The last class gets its neighbour's entry: a row's end that no vector covers."""
    return torch.cat((gradient[:, :-1], gradient[:, -2:-1]), 1)


def _truncated(gradient, *_):
    """The last bits cut off instead of rounded: 3 of 16, 10 of 32."""
    bits, width = (torch.int16, 3) if gradient.itemsize == 2 else (torch.int32, 10)
    return (gradient.view(bits) >> width << width).view(gradient.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_reference_is_within_the_budget(dtype):
    z, t, labels, exact = _case(dtype)
    gradient = _gradient(z, t, labels)
    oracle.assert_within_budget(gradient, gradient, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "mutant",
    [_small_entries_lost, _no_smoothing_beside_the_label, _coarse_exponentials, _stale_end_of_row, _truncated],
    ids=lambda mutant: mutant.__name__.strip("_"),
)
def test_a_mutant_is_not(dtype, mutant):
    z, t, labels, exact = _case(dtype)
    gradient = _gradient(z, t, labels)
    with pytest.raises(AssertionError, match="times the budget"):
        oracle.assert_within_budget(mutant(gradient, z, t, labels), gradient, exact)
