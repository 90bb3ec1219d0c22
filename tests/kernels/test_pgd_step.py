"""pgd_step on every backend against a float64 oracle; linf in float32 equal to the reference to the bit."""

import kernel_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_variants import FLOATS, IMAGE_SHAPES, LAYOUTS, SEEDS, every_variant, relayout

from act_kernels import pgd_step, use_backend


@st.composite
def steps(draw):
    """Arguments of pgd_step on the CPU, in any mix of layouts and dtypes, and the norm."""
    shape, seed = draw(IMAGE_SHAPES), draw(SEEDS)
    dtype, grad_dtype = draw(FLOATS), draw(FLOATS)
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.rand(size, generator=generator)

    x = random(*shape)
    x_adv = (x + 0.2 * (random(*shape) - 0.5)).to(dtype)
    grad = (random(*shape) - 0.5) * draw(st.sampled_from((1.0, 1e-4, 1e3)))
    grad = torch.where(random(*shape) < 0.1, 0.0, grad).to(grad_dtype)
    x = (x * 255).to(torch.uint8) if draw(st.booleans()) else x.to(dtype)
    images = [relayout(t, draw(st.sampled_from(LAYOUTS))) for t in (x_adv, grad, x)]
    per_sample, per_channel = draw(st.booleans()), draw(st.booleans()) and len(shape) > 1
    step_size = random(shape[0]) * 0.1 - 0.02 if per_sample else draw(st.sampled_from((0.01, 0.0, -0.02)))
    eps = random(shape[0]) * 0.1 if draw(st.booleans()) else draw(st.sampled_from((8 / 255, 0.0, 2.0)))
    lower = random(shape[1]) * 0.1 if per_channel else 0.0
    upper = 1 - random(shape[1]) * 0.1 if per_channel and draw(st.booleans()) else 1.0
    return [*images, step_size, eps, lower, upper], draw(st.sampled_from(("linf", "l2")))


def _run(arguments, norm, device="cpu", **options):
    x_adv, grad, x, step_size, eps, lower, upper = (
        a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments
    )
    return pgd_step(x_adv, grad, x, step_size, eps, norm=norm, lower=lower, upper=upper, **options)


@every_variant
@given(steps())
def test_agrees_with_the_oracle(variant, step):
    arguments, norm = step
    with use_backend("reference"):
        reference = _run(arguments, norm)
    with variant.active("pgd_step"):
        result = _run(arguments, norm, variant.device).cpu()
    exact = oracle.pgd_step(*arguments, norm)
    oracle.assert_within_budget(result, reference, exact)
    if norm == "linf":
        assert torch.equal(result, reference)


@every_variant
@given(steps())
def test_in_place_writes_the_same_and_returns_the_tensor(variant, step):
    arguments, norm = step
    with variant.active("pgd_step"):
        expected = _run(arguments, norm, variant.device)
        x_adv = relayout(arguments[0].clone(), "strided").to(variant.device)
        version = x_adv._version
        result = _run([x_adv, *arguments[1:]], norm, variant.device, inplace=True)
    assert result is x_adv
    assert x_adv._version > version
    assert torch.equal(result, expected)


@every_variant
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_samples_than_a_grid_dimension_holds(variant, norm, several_threads):
    if variant.simulated and norm == "l2":
        pytest.skip("takes minutes without a GPU")
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.rand(70_001, 2, generator=generator), torch.randn(70_001, 2, generator=generator)
    arguments = [x, grad, x, 0.1, torch.full((70_001,), 0.05), 0.0, 1.0]
    with use_backend("reference"):
        reference = _run(arguments, norm)
    with variant.active("pgd_step"):
        result = _run(arguments, norm, variant.device).cpu()
    oracle.assert_within_budget(result, reference, oracle.pgd_step(*arguments, norm))


@every_variant
def test_large_results_are_stored_right_from_any_offset(variant, several_threads):
    """Beyond the size at which the CPU kernels store past the caches, from an unaligned start."""
    if variant.simulated:
        pytest.skip("only the CPU kernels store past the caches")
    count = (9 << 20) // 4
    generator = torch.Generator().manual_seed(0)
    x, grad = (relayout(torch.rand(count, generator=generator) - shift, "offset") for shift in (0, 0.5))
    with use_backend("reference"):
        expected = pgd_step(x, grad, x, 0.01, 0.03)
    with variant.active("pgd_step"):
        assert torch.equal(
            pgd_step(x.to(variant.device), grad.to(variant.device), x.to(variant.device), 0.01, 0.03).cpu(), expected
        )


@every_variant
@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25])
def test_l2_neither_vanishes_nor_overflows(variant, scale):
    grad = torch.tensor([[3.0, -4.0, 0.0]]) * scale
    x = torch.full((1, 3), 0.5)
    with variant.active("pgd_step"):
        result = pgd_step(*(t.to(variant.device) for t in (x, grad, x)), 0.1, 1.0, norm="l2").cpu()
    torch.testing.assert_close(result, torch.tensor([[0.56, 0.42, 0.5]]))


@every_variant
def test_nan_images_give_nan_and_a_nan_gradient_is_as_documented(variant):
    nan, x = torch.nan, torch.full((2, 2), 0.5)
    with variant.active("pgd_step"):

        def run(x_adv, grad, clean, norm):
            return pgd_step(*(t.to(variant.device) for t in (x_adv, grad, clean)), 0.1, 0.2, norm=norm).cpu()

        holed = torch.tensor([[0.5, nan], [0.5, 0.5]])
        ones = torch.ones(2, 2)
        assert torch.equal(run(holed, ones, x, "linf").isnan(), holed.isnan())
        assert torch.equal(run(x, ones, holed, "linf").isnan(), holed.isnan())
        assert torch.equal(
            run(x, torch.tensor([[1.0, nan], [1.0, 1.0]]), x, "linf"), torch.tensor([[0.6, 0.5], [0.6, 0.6]])
        )
        assert run(x, torch.tensor([[1.0, nan], [1.0, 1.0]]), x, "l2").isnan().tolist() == [
            [True, True],
            [False, False],
        ]


def test_float64_images_are_computed_in_float64():
    x = torch.tensor([[1 / 3]], dtype=torch.float64)
    assert pgd_step(x, torch.ones_like(x), x, 1e-12, 1.0).item() == 1 / 3 + 1e-12


def test_the_loop_of_an_attack_needs_no_detach():
    x = torch.full((2, 3), 0.5)
    x_adv = x.clone().requires_grad_()
    for _ in range(3):
        (grad,) = torch.autograd.grad((x_adv * 2).sum(), x_adv)
        x_adv = pgd_step(x_adv, grad, x, 0.1, 0.25).requires_grad_()
    torch.testing.assert_close(x_adv.detach(), torch.full((2, 3), 0.75))
    assert x_adv.is_leaf
