"""What the native kernels allocate: their results and the gradients, and nothing else of that size."""

import itertools

import pytest
import torch
from kernel_variants import Variant

from act_kernels import act_loss, attack_grad, kl_ce_loss, pgd_step, random_start, trades_loss

_NATIVE = Variant("native", "cpu")
_KL_CE = {"kl_weight": 0.9, "ce_weight": 0.1}


def _images():
    return (torch.rand(8, 3, 64, 64) for _ in range(3))


def _step(norm, inplace):
    x_adv, grad, x = _images()
    return lambda: pgd_step(x_adv, grad, x, 0.01, 0.03, norm=norm, inplace=inplace)


def _start():
    x, _, _ = _images()
    return lambda: random_start(x, 0.1)


def _gradients(loss):
    """Forward and backward, to both matrices at once, as training does."""
    z, t = (torch.randn(128, 1000, requires_grad=True) for _ in range(2))
    labels = torch.arange(128)

    def both_ways():
        return torch.autograd.grad(loss(z, t, labels), (z, t), allow_unused=True)

    return both_ways


def _attack_grad():
    z, t = (torch.randn(128, 1000) for _ in range(2))
    return lambda: attack_grad(z, t, torch.arange(128), **_KL_CE)


IMAGES, LOGITS = 4 * 8 * 3 * 64 * 64, 4 * 128 * 1000  # bytes
CASES = {
    "pgd_step linf": (lambda: _step("linf", False), IMAGES),
    "pgd_step linf in place": (lambda: _step("linf", True), 0),
    "pgd_step l2": (lambda: _step("l2", False), IMAGES),
    "pgd_step l2 in place": (lambda: _step("l2", True), 0),
    "random_start": (_start, IMAGES),
    "act_loss": (lambda: _gradients(lambda *a: sum(act_loss(*a))), 2 * LOGITS),
    "kl_ce_loss": (lambda: _gradients(lambda *a: kl_ce_loss(*a, **_KL_CE)), LOGITS),
    "trades_loss": (lambda: _gradients(trades_loss), 2 * LOGITS),
    "attack_grad": (_attack_grad, LOGITS),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_allocated_beyond_results_and_gradients(case, allocations):
    make, expected = CASES[case]
    op = "act_loss" if case == "act_loss" else "pgd_step"
    with _NATIVE.active(op):
        call = make()
        call()
        _, changes = allocations(call)
        peak = max(itertools.accumulate(changes, initial=0))
        assert expected <= peak <= expected + 0.02 * LOGITS  # labels, losses of each row
