"""The ops as torch.library ops: opcheck, gradcheck, torch.compile, autocast, functorch's transforms."""

import pytest
import torch
from kernel_variants import Variant, every_variant, relayout
from torch.library import opcheck

from act_kernels import act_loss, attack_grad, kl_ce_loss, pgd_step, random_start, trades_loss
from act_kernels.reference.kl_ce_loss import MEAN, NO_LOSS, ONE_A_ROW, SUM

_OPS = torch.ops.act_kernels
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_CPU = [Variant("reference", "cpu"), Variant("native", "cpu")]
on_cpu = pytest.mark.parametrize("variant", _CPU, ids=["reference", "native"])


def _images(dtype, layout="contiguous", device="cpu"):
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(2, 3, 5, 4, generator=generator) for _ in range(3))
    return [relayout(t.to(dtype), layout).to(device) for t in images]


def _logits(dtype=torch.float32, requires_grad=False, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(4, 7, generator=generator).to(device, dtype).requires_grad_(requires_grad) for _ in range(2))
    return z, t, torch.tensor([0, 3, 6, 1], device=device)


@every_variant
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(d, "contiguous") for d in _DTYPES] + [(torch.float32, la) for la in ("channels_last", "transposed", "offset")],
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_opcheck_pgd_step(variant, dtype, layout, norm):
    x_adv, grad, x = _images(dtype, layout, variant.device)
    constants = (
        None,
        0.01,
        x.new_full((2,), 0.03, dtype=torch.promote_types(dtype, torch.float32)),
        0.0,
        None,
        0.0,
        None,
        1.0,
        norm,
    )
    with variant.active("pgd_step", dtype):
        opcheck(_OPS.pgd_step.default, (x_adv.requires_grad_(), grad, x, *constants))
        opcheck(_OPS.pgd_step_.default, (x_adv.detach(), grad, x, *constants))


@every_variant
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "offset"])
def test_opcheck_random_start(variant, dtype, layout):
    out, x, _ = _images(dtype, layout, variant.device)
    key = torch.tensor([1], device=variant.device)
    with variant.active("random_start", dtype):
        opcheck(_OPS.random_start_.default, (out, x, key, 3, True, None, 0.1, None, 0.0, None, 1.0))


@every_variant
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "offset"])
def test_opcheck_losses(variant, dtype, layout):
    z, t, labels = _logits(dtype, device=variant.device)
    z, t = relayout(z, layout).requires_grad_(), relayout(t, layout)
    kind = torch.promote_types(dtype, torch.float32)
    pair, dense = torch.tensor([0.3, 1.0, 0.0, 0.5], dtype=kind), torch.rand(4, 7, dtype=kind)
    pair, dense = pair.to(variant.device), dense.to(variant.device)
    for wanted, target, reduction in (
        ((True, True), (labels, None, None), MEAN),
        ((True, False), (labels, labels.flip(0), pair), ONE_A_ROW),
        ((False, True), (None, None, dense), SUM),
    ):
        with variant.active("act_loss", dtype):
            opcheck(_OPS.act_loss.default, (z, t, *target, 0.9, 0.5, 4.0, 0.25, *wanted))
        with variant.active("kl_ce_loss", dtype):
            opcheck(_OPS.kl_ce_loss.default, (z, t, *target, 0.9, 0.1, 0.3, 2.0, 0.1, 0.25, reduction, *wanted))
    with variant.active("kl_ce_loss", dtype):
        opcheck(_OPS.kl_ce_loss.default, (z, t, labels, None, None, 0.9, 0.1, 0.3, 1.0, 0.0, 1.0, NO_LOSS, True, False))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradcheck(temperature):
    """In float64, by the reference; the other backends' gradients are held against the float64 oracle."""
    z, t, labels = (m[:2] for m in _logits(torch.float64))
    z, t = z.clone().requires_grad_(), t.clone().requires_grad_()
    z_constant, t_constant = z.detach().clone(), t.detach().clone()
    options = {"robust_alpha": 0.7, "natural_alpha": 0.4, "temperature": temperature}
    assert torch.autograd.gradcheck(lambda a: act_loss(a, t_constant, labels, **options).robust, z)
    assert torch.autograd.gradcheck(lambda b: act_loss(z_constant, b, labels, **options).natural, t)
    options = {"kl_weight": 0.9, "ce_weight": 0.3, "temperature": temperature, "label_smoothing": 0.1}
    assert torch.autograd.gradcheck(lambda a: kl_ce_loss(a, t_constant, labels, **options), z)
    for reduction in ("mean", "sum", "none"):
        options |= {"reduction": reduction, "target_grad": True}
        assert torch.autograd.gradcheck(lambda a, b, o=dict(options): kl_ce_loss(a, b, labels, **o), (z, t))
    assert torch.autograd.gradcheck(lambda a, b: trades_loss(a, b, labels), (z, t))


def test_attack_grad_is_the_gradient_of_the_sum():
    z, t, labels = _logits(torch.float64, requires_grad=True)
    loss = kl_ce_loss(z, t, labels, kl_weight=0.9, ce_weight=0.1, reduction="sum")
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(attack_grad(z, t, labels, kl_weight=0.9, ce_weight=0.1), expected)


@on_cpu
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(variant, dynamic):
    def step(x_adv, z, t, labels):
        x_adv = pgd_step(x_adv, x_adv - 0.5, x_adv, 0.01, torch.full((x_adv.shape[0],), 0.03), lower=torch.zeros(3))
        x_adv = pgd_step(x_adv.clone(), x_adv, x_adv, 0.01, 0.03, norm="l2", inplace=True)
        losses = act_loss(z, t, labels)
        total = losses.robust + losses.natural + trades_loss(z, t, labels)
        total = total + kl_ce_loss(z, t, labels, kl_weight=1.0, ce_weight=1.0, temperature=2.0, reduction="sum")
        return x_adv, total, attack_grad(z, t, labels, kl_weight=1.0, ce_weight=0.0)

    with variant.active("act_loss"):
        compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        z, t, labels = _logits(requires_grad=True)
        x_adv = _images(torch.float32)[0].requires_grad_()
        expected, result = step(x_adv, z, t, labels), compiled(x_adv, z, t, labels)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(torch.autograd.grad(result[1], (z, t)), torch.autograd.grad(expected[1], (z, t)))


@on_cpu
def test_compile_random_start(variant):
    with variant.active("random_start"):
        x = torch.full((2, 3, 4, 4), 0.5)
        start = torch.compile(lambda t: random_start(t, 0.1), fullgraph=True, backend="aot_eager")(x)
        assert (start - x).abs().max() <= 0.1
        assert (start - x).abs().max() > 0


@on_cpu
def test_autocast(variant):
    """Losses take what a layer under autocast gives, and answer in float32."""
    with variant.active("act_loss"), torch.autocast("cpu", torch.bfloat16):
        layer = torch.nn.Linear(5, 7)
        z, t = layer(torch.randn(4, 5)), layer(torch.randn(4, 5))
        assert z.dtype == torch.bfloat16
        loss = act_loss(z, t, torch.tensor([0, 1, 2, 3]))
        (loss.robust + loss.natural).backward()
        assert loss.robust.dtype == torch.float32
        assert layer.weight.grad.dtype == torch.float32


@on_cpu
def test_functorch_grad_and_vmap(variant):
    z, t, labels = _logits()
    with variant.active("kl_ce_loss"):
        leaf = z.clone().requires_grad_()
        (expected,) = torch.autograd.grad(trades_loss(t, leaf, labels), leaf)
        torch.testing.assert_close(torch.func.grad(lambda a: trades_loss(t, a, labels))(z), expected)
        stacked = torch.stack((z, t))
        looped = torch.stack([trades_loss(t, m, labels) for m in stacked])
        torch.testing.assert_close(torch.func.vmap(lambda m: trades_loss(t, m, labels))(stacked), looped)
        images = torch.stack(_images(torch.float32))
        stepped = torch.func.vmap(lambda m: pgd_step(m, images[0], images[1], 0.01, 0.03))(images)
        torch.testing.assert_close(
            stepped, torch.stack([pgd_step(m, images[0], images[1], 0.01, 0.03) for m in images])
        )


@on_cpu
def test_a_second_derivative_is_an_error(variant):
    z, t, labels = _logits(requires_grad=True)
    with variant.active("kl_ce_loss"):
        (grad,) = torch.autograd.grad(trades_loss(t, z, labels), z, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(grad.sum(), z)
