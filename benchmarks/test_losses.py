"""The losses (forward and backward) and attack_grad beside eager PyTorch, torch.compile, a copy, and Liger."""

import pytest
import torch
from baselines import losses as baselines
from contenders import contender, every_contender

from act_kernels import act_loss, attack_grad, kl_ce_loss, trades_loss

_SIZES = [
    pytest.param((128, 10), id="128x10"),
    pytest.param((256, 1000), id="256x1000"),
    pytest.param((4096, 1000), id="4096x1000"),
    pytest.param((4096, 21841), id="4096x21841", marks=pytest.mark.large),
]
_KL_CE = {"kl_weight": 0.9, "ce_weight": 0.1, "temperature": 4.0}
_KERNELS = {
    "act_loss": lambda z, t, y: sum(act_loss(z, t, y)),
    "kl_ce_loss": lambda z, t, y: kl_ce_loss(z, t, y, **_KL_CE),
    "trades_loss": lambda z, t, y: trades_loss(z, t, y),
}


def _sets(bench, shape, requires_grad):
    count = bench.rotation(4 * 4 * torch.Size(shape).numel())
    sets = []
    for _ in range(count):
        z, t = (3 * torch.randn(shape, device=bench.device) for _ in range(2))
        labels = torch.randint(0, shape[1], shape[:1], device=bench.device)
        sets.append((z.requires_grad_(requires_grad), t.requires_grad_(requires_grad), labels))
    return sets


def _moved(op: str, logits: torch.Tensor) -> int:
    """Bytes to read and write: both matrices, and a gradient for each that gets one."""
    return logits.nbytes * (3 if op in ("kl_ce_loss", "attack_grad") else 4)


def _copy(benchmark, bench, op, shape):
    moved = _moved(op, torch.empty(shape))
    sets = [
        tuple(torch.ones(moved // 2, dtype=torch.uint8, device=bench.device) for _ in range(2))
        for _ in range(bench.rotation(moved))
    ]
    bench.record(benchmark, op, "x".join(map(str, shape)), "copy", lambda s, d: d.copy_(s), sets, moved)


def _forward_and_backward(loss):
    def run(z, t, labels):
        value = loss(z, t, labels)
        wanted = [m for m in (z, t) if m.requires_grad]
        return value, torch.autograd.grad(value, wanted, allow_unused=True)

    return run


@every_contender
@pytest.mark.parametrize("shape", _SIZES)
@pytest.mark.parametrize("op", list(_KERNELS))
def test_loss(benchmark, bench, name, shape, op):
    if name == "copy":
        return _copy(benchmark, bench, op, shape)
    baseline = getattr(baselines, op)
    raw = "act_loss" if op == "act_loss" else "kl_ce_loss"
    run = _forward_and_backward(contender(name, raw, bench.device, _KERNELS[op], baseline))
    sets = _sets(bench, shape, requires_grad=True)
    torch.testing.assert_close(run(*sets[0]), _forward_and_backward(baseline)(*sets[0]), rtol=1e-4, atol=1e-6)
    return bench.record(benchmark, op, "x".join(map(str, shape)), name, run, sets, _moved(op, sets[0][0]))


@every_contender
@pytest.mark.parametrize("shape", _SIZES)
def test_attack_grad(benchmark, bench, name, shape):
    if name == "copy":
        return _copy(benchmark, bench, "attack_grad", shape)
    run = contender(
        name,
        "kl_ce_loss",
        bench.device,
        lambda z, t, y: attack_grad(z, t, y, kl_weight=1.0, ce_weight=0.0),
        baselines.attack_grad,
    )
    sets = _sets(bench, shape, requires_grad=False)
    torch.testing.assert_close(run(*sets[0]), baselines.attack_grad(*sets[0]), rtol=1e-4, atol=1e-6)
    return bench.record(
        benchmark, "attack_grad", "x".join(map(str, shape)), name, run, sets, _moved("attack_grad", sets[0][0])
    )


@pytest.mark.parametrize("shape", _SIZES)
def test_liger_kl_and_cross_entropy(benchmark, bench, shape):
    """Liger's two separate kernels, composed into kl_ce_loss; they run on a GPU only."""
    if bench.device.type != "cuda":
        pytest.skip("Liger's kernels need a GPU")
    liger = pytest.importorskip("liger_kernel.transformers")
    cross_entropy, kl_div = liger.LigerCrossEntropyLoss(), liger.LigerKLDIVLoss(reduction="batchmean")

    def loss(z, t, labels):
        kl = kl_div(torch.log_softmax(z / 4, 1), torch.softmax(t.detach() / 4, 1)) * 16
        # Liger's cross-entropy writes its gradient into the logits: it gets a copy, as a trainer would have to make.
        return 0.1 * cross_entropy(z.clone(), labels) + 0.9 * kl

    run = _forward_and_backward(loss)
    sets = _sets(bench, shape, requires_grad=True)
    expected = _forward_and_backward(baselines.kl_ce_loss)(*sets[0])
    torch.testing.assert_close(run(*sets[0]), expected, rtol=1e-3, atol=1e-5)
    bench.record(
        benchmark, "kl_ce_loss", "x".join(map(str, shape)), "liger", run, sets, _moved("kl_ce_loss", sets[0][0])
    )
