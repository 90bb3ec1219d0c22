"""What could be silently wrong: memory shared in place, and derivatives along a direction."""

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch.func import jvp

from act_kernels import act_loss, attack_grad, kl_ce_loss, pgd_step, random_start, trades_loss, use_backend

VIEWS = {
    "the same tensor": lambda x: x,
    "detached": lambda x: x.detach(),
    "a view": lambda x: x.view_as(x),
    "a slice": lambda x: x[:],
    "another shape and back": lambda x: x.flatten().view(x.shape),
    "through numpy": lambda x: torch.from_numpy(x.numpy()),
    "through its storage": lambda x: torch.tensor([]).set_(x.untyped_storage(), 0, x.shape, x.stride()),
}


DTYPES = {"reference": torch.float64, "native": torch.float32}
"""What each backend computes in; sums of 35 products of numbers below 10 differ by less than 1,000 roundings of 1."""


@pytest.fixture(params=["reference", "native"])
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
@pytest.mark.parametrize("shared", ["x", "grad"])
def test_in_place_memory_that_is_shared_is_refused(backend, view, shared):
    """Three steps of 0.1 from 0.5 in a ball of 0.1 would end at 0.8 if the ball moved along."""
    x, grad = torch.full((2, 3, 4, 4), 0.5), torch.ones(2, 3, 4, 4)
    x_adv = view(x if shared == "x" else grad)
    with pytest.raises(ValueError, match=f"share memory with {shared}; start from a copy"):
        pgd_step(x_adv, grad, x, 0.1, 0.1, inplace=True)
    assert torch.equal(x, torch.full_like(x, 0.5))


def test_in_place_parts_of_a_common_buffer_are_fine(backend):
    buffer = torch.full((3, 2, 3, 4, 4), 0.5)
    buffer[2] = 1.0
    x_adv, x, grad = buffer
    for _ in range(3):
        assert pgd_step(x_adv, grad, x, 0.1, 0.1, inplace=True) is x_adv
    torch.testing.assert_close(x_adv, torch.full_like(x, 0.6))
    half = torch.full((4, 3, 4, 4), 0.5)
    pgd_step(half[:2], half[2:] * 0, half[2:], 0.1, 0.1, inplace=True)
    empty = torch.empty(0, 3, 4, 4)
    assert pgd_step(empty, empty, empty, 0.1, 0.1, inplace=True) is empty


def losses(first, second, labels):
    act = act_loss(first, second, labels)
    distilled = {"kl_weight": 0.7, "ce_weight": 0.3, "temperature": 2.0, "target_grad": True}
    rows = kl_ce_loss(first, second, labels, **distilled, reduction="none")
    return act.robust, act.natural, trades_loss(first, second, labels), rows.square().sum()


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_a_derivative_along_a_direction_is_the_gradient_s_product_with_it(backend, wanted):
    dtype = DTYPES[backend]
    generator = torch.Generator().manual_seed(0)
    first, second, *directions = (torch.randn(5, 7, generator=generator, dtype=dtype) for _ in range(4))
    labels = torch.tensor([0, 6, 3, 3, 1])
    chosen = [d if want else torch.zeros_like(d) for d, want in zip(directions, wanted, strict=True)]
    values, tangents = jvp(lambda a, b: losses(a, b, labels), (first, second), tuple(chosen))
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    for value, tangent, loss in zip(values, tangents, losses(a, b, labels), strict=True):
        assert value == loss
        grads = torch.autograd.grad(loss, (a, b), allow_unused=True, retain_graph=True)
        expected = sum((g * d).sum() for g, d in zip(grads, chosen, strict=True) if g is not None)
        torch.testing.assert_close(
            tangent, torch.as_tensor(expected, dtype=tangent.dtype), rtol=0, atol=1e3 * torch.finfo(dtype).eps
        )
    assert any(tangent != 0 for tangent in tangents)


def test_dual_tensors_too(backend):
    dtype = DTYPES[backend]
    first, second = torch.randn(4, 5, dtype=dtype), torch.randn(4, 5, dtype=dtype)
    labels, direction = torch.tensor([0, 1, 2, 3]), torch.ones(4, 5, dtype=dtype).cumsum(1)
    with fwd.dual_level():
        loss = trades_loss(fwd.make_dual(first, direction), second, labels)
        tangent = fwd.unpack_dual(loss).tangent
    point = first.clone().requires_grad_()
    (grad,) = torch.autograd.grad(trades_loss(point, second, labels), point)
    torch.testing.assert_close(tangent, (grad * direction).sum(), rtol=0, atol=1e3 * torch.finfo(dtype).eps)


def test_batched_gradients_are_those_of_each_by_itself(backend):
    """Also where the graph is freed, and the stored gradient would otherwise be written over."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(4, 7, generator=generator).requires_grad_() for _ in range(2))
    labels, factors = torch.arange(4), torch.tensor([1.0, 2.0, -0.5])
    for keep in (True, False):
        total = sum(act_loss(first, second, labels))
        batched = torch.autograd.grad(total, (first, second), factors, is_grads_batched=True, retain_graph=keep)
        once = torch.autograd.grad(sum(act_loss(first, second, labels)), (first, second))
        for several, one in zip(batched, once, strict=True):
            torch.testing.assert_close(several, torch.stack([f * one for f in factors]))


def test_one_radius_in_a_tensor_serves_an_empty_batch_too(backend):
    empty = torch.empty(0, 3, 4, 4)
    assert pgd_step(empty, empty, empty, torch.tensor(0.1), torch.tensor(0.1)).shape == empty.shape
    assert random_start(empty, torch.tensor(0.1)).shape == empty.shape


def test_numbers_beyond_float32_are_refused_where_float32_is_computed():
    x, z, labels = torch.full((2, 3), 0.5), torch.zeros(2, 3), torch.tensor([0, 1])
    for name in ("reference", "native"):
        with use_backend(name):
            with pytest.raises(ValueError, match=r"step_size: expected a number that float32 holds, .* got 1e\+39"):
                pgd_step(x, x, x, 1e39, 0.1)
            with pytest.raises(ValueError, match="eps: expected a number that float32 holds"):
                pgd_step(x, x, x, 0.1, 1e39)
            with pytest.raises(ValueError, match="beta: expected a number that float32 holds"):
                trades_loss(z, z, labels, beta=-1e39)
            with pytest.raises(ValueError, match="kl_weight: expected a number that float32 holds"):
                kl_ce_loss(z, z, labels, kl_weight=1e39, ce_weight=0.0)
            with pytest.raises(ValueError, match="ce_weight: expected a number that float32 holds"):
                attack_grad(z, z, labels, kl_weight=1.0, ce_weight=1e39)
            assert torch.equal(pgd_step(x, x, x, float("inf"), 0.125), torch.full_like(x, 0.625))
    assert trades_loss(z.double(), z.double() + 1, labels, beta=1e39).isfinite()
