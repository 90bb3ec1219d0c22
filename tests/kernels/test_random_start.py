"""random_start on every backend: inside the ball and the range, right distribution, same start for the same seed."""

import kernel_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_variants import FLOATS, IMAGE_SHAPES, LAYOUTS, SEEDS, every_variant, relayout

from act_kernels import random_start, use_backend


@every_variant
@given(IMAGE_SHAPES, FLOATS, st.sampled_from(LAYOUTS), st.sampled_from(("linf", "l2")), st.booleans(), SEEDS)
def test_stays_in_the_ball_and_in_range(variant, shape, dtype, layout, norm, as_bytes, seed):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    x = relayout((x * 255).to(torch.uint8) if as_bytes else x.to(dtype), layout).to(variant.device)
    eps = torch.rand(shape[0], generator=torch.Generator().manual_seed(seed)).to(variant.device) * 0.2
    generator = torch.Generator(variant.device).manual_seed(seed)
    with variant.active("random_start"):
        start = random_start(x, eps, norm=norm, generator=generator)
    assert start.dtype == (torch.float32 if as_bytes else dtype)
    if start.numel() == 0:
        return
    assert start.min() >= 0
    assert start.max() <= 1
    delta = oracle.array(start) - oracle.array(x)
    lengths = (
        abs(delta).reshape(shape[0], -1).max(1) if norm == "linf" else (delta**2).reshape(shape[0], -1).sum(1) ** 0.5
    )
    rounding = 2 * torch.finfo(start.dtype).eps * delta[0].size ** 0.5
    assert (lengths <= oracle.array(eps) * (1 + 1e-5) + rounding).all()


@every_variant
@pytest.mark.parametrize("options", [{}, {"norm": "l2"}, {"kind": "gaussian"}], ids=["linf", "l2", "gaussian"])
def test_a_seed_gives_the_reference_start(variant, options):
    x = torch.rand(3, 3, 9, 11, generator=torch.Generator().manual_seed(0)).to(variant.device)
    starts = []
    for backend in ("reference", variant.backend):
        with variant.active("random_start"), use_backend(backend):
            starts.append(random_start(x, 0.1, generator=torch.Generator(variant.device).manual_seed(1), **options))
    torch.testing.assert_close(starts[0], starts[1], rtol=0, atol=2**-23)


def test_uniform_fills_the_linf_ball_evenly():
    noise = random_start(torch.full((1, 200_000), 0.5), 0.1, generator=torch.Generator().manual_seed(0)) - 0.5
    assert abs(noise.mean()) < 1e-3
    assert abs(noise.std() - 0.1 / 3**0.5) < 1e-3
    counts = torch.histc(noise, 10, -0.1, 0.1)
    assert (counts - 20_000).abs().max() < 800


def test_uniform_fills_the_l2_ball_evenly():
    """In d dimensions the distance from the centre is eps · U^(1/d), and the direction is uniform."""
    noise = (
        random_start(torch.full((100_000, 3), 0.5), 0.1, norm="l2", generator=torch.Generator().manual_seed(0)) - 0.5
    )
    inner = (noise.norm(dim=1) < 0.05).float().mean()
    assert abs(inner - 1 / 8) < 0.005
    assert noise.mean(0).abs().max() < 1e-3


def test_gaussian_is_neither_projected_nor_clamped():
    noise = random_start(torch.zeros(1, 100_000), 1e-6, kind="gaussian", generator=torch.Generator().manual_seed(0))
    assert noise.min() < -0.003
    assert abs(noise.std() - 0.001) < 1e-5
