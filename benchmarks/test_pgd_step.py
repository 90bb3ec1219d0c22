"""pgd_step and random_start beside eager PyTorch, torch.compile, and a copy of the same bytes."""

import pytest
import torch
from baselines import pgd_step as baselines
from contenders import RUNNERS, contender, every_contender

from act_kernels import pgd_step, random_start

_SIZES = [
    pytest.param((128, 3, 32, 32), id="128x3x32x32"),
    pytest.param((32, 3, 224, 224), id="32x3x224x224"),
    pytest.param((256, 3, 224, 224), id="256x3x224x224", marks=pytest.mark.large),
]
_STEP, _EPS = 2 / 255, 8 / 255


def _sets(bench, shape):
    count = bench.rotation(4 * 4 * torch.Size(shape).numel())
    x = torch.rand(shape, device=bench.device)
    start = x + 0.06 * torch.rand(shape, device=bench.device) - 0.03
    grad = torch.randn(shape, device=bench.device)
    return [(start.clone(), grad.clone(), x.clone()) for _ in range(count)]


@every_contender
@pytest.mark.parametrize("shape", _SIZES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_step(benchmark, bench, name, shape, norm):
    sets = _sets(bench, shape)
    moved = 4 * sets[0][0].nbytes
    size = "x".join(map(str, shape))
    if name == "copy":
        halves = [(torch.empty(moved // 2, dtype=torch.uint8, device=bench.device),) * 2 for _ in sets]
        sets = [(a, torch.empty_like(b)) for a, b in halves]
        bench.record(benchmark, f"pgd_step {norm}", size, name, lambda s, d: d.copy_(s), sets, moved)
        return
    baseline = getattr(baselines, norm)
    run = contender(
        name,
        "pgd_step",
        bench.device,
        lambda a, g, x: pgd_step(a, g, x, _STEP, _EPS, norm=norm),
        lambda a, g, x: baseline(a, g, x, _STEP, _EPS),
    )
    torch.testing.assert_close(run(*sets[0]), baseline(*sets[0], _STEP, _EPS), rtol=0, atol=1e-6)
    bench.record(benchmark, f"pgd_step {norm}", size, name, run, sets, moved)


@pytest.mark.parametrize("name", RUNNERS)  # the copy of these bytes is in percent_of_copy
@pytest.mark.parametrize("shape", _SIZES)
def test_random_start(benchmark, bench, name, shape):
    sets = [(x,) for _, _, x in _sets(bench, shape)]
    run = contender(
        name, "random_start", bench.device, lambda x: random_start(x, _EPS), lambda x: baselines.random_start(x, _EPS)
    )
    assert (run(*sets[0]) - sets[0][0]).abs().max() <= _EPS + 1e-6
    bench.record(benchmark, "random_start", "x".join(map(str, shape)), name, run, sets, 2 * sets[0][0].nbytes)
