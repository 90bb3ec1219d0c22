"""random_start on every backend: inside the ball and the range, right distribution, the same bits for a key."""

import kernel_oracle as oracle
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_variants import FLOATS, IMAGE_SHAPES, LAYOUTS, SEEDS, every_variant, relayout

from act_kernels import random_start, use_backend
from act_kernels.reference.random_start import _philox, _quantile


@every_variant
@given(IMAGE_SHAPES, FLOATS, st.sampled_from(LAYOUTS), st.sampled_from(("linf", "l2")), st.booleans(), SEEDS)
def test_stays_in_the_ball_and_in_range(variant, shape, dtype, layout, norm, as_bytes, seed):
    assume(not variant.simulated or torch.Size(shape).numel() <= 5000)
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


_OPTIONS = [{}, {"norm": "l2"}, {"kind": "gaussian", "sigma": 0.3}]
each_kind = pytest.mark.parametrize("options", _OPTIONS, ids=["linf", "l2", "gaussian"])


@every_variant
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 3, 9, 11), (2, 3, 24, 24), (5, 1)], ids=str)
def test_a_key_gives_the_reference_start_to_the_bit(variant, options, dtype, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(variant.device, dtype)
    eps = torch.linspace(0.0, 0.3, shape[0], device=variant.device)
    for layout in ("contiguous", "channels_last", "offset"):
        starts = []
        for backend in ("reference", variant.backend):
            generator = torch.Generator(variant.device).manual_seed(1)
            with variant.active("random_start", dtype), use_backend(backend):
                start = random_start(relayout(x, layout), eps, generator=generator, first=2**33 + 5, **options)
            starts.append(start)
        assert torch.equal(*starts)


@every_variant
@each_kind
def test_any_split_of_a_batch_gives_the_same_start(variant, options, several_threads):
    """Threads split it too: more elements than the grain of one."""
    x = torch.rand(7, 3, 41, 43, generator=torch.Generator().manual_seed(0)).to(variant.device)

    def start(part, first):
        generator = torch.Generator(variant.device).manual_seed(1)
        return random_start(part, 0.1, generator=generator, first=first, **options)

    with variant.active("random_start"):
        whole = start(x, 10)
        parts = [start(part, 10 + at) for part, at in zip(x.split((1, 4, 2)), (0, 1, 5), strict=True)]
    assert torch.equal(whole, torch.cat(parts))


def test_another_key_image_or_element_has_other_noise():
    x = torch.full((4, 1000), 0.5)
    one, other = (random_start(x, 0.5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    rows = torch.cat((one, other))
    assert len(rows.unique()) > 0.999 * rows.numel()  # 8,000 out of 2^24 values: two pairs are expected to meet
    correlation = torch.corrcoef(rows)[~torch.eye(8, dtype=torch.bool)]
    assert correlation.abs().max() < 5 / 1000**0.5


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((-1, -1), -1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x85A308D3243F6A88 - 2**64, 0x0370734413198A2E),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_is_philox(counter, key, words):
    """The known answers that Random123 (its authors' library) ships for philox4x32-10."""
    got = _philox(*(torch.tensor([v]) for v in counter), torch.tensor([key]))
    assert tuple(int(word) for word in got) == words


def test_the_reference_has_the_normal_quantile():
    q = torch.cat((torch.linspace(-0.4999, 0.4999, 10_001), torch.tensor([-0.5 + 2**-25, 0.5 - 2**-25])))
    exact = torch.special.ndtri(q.double() + 0.5)
    # AS 241's own error is 1e-7 of the value; beside it the roundings of a polynomial of some terms up to 6.
    torch.testing.assert_close(_quantile(q).double(), exact, rtol=1e-6, atol=1e-7)


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
