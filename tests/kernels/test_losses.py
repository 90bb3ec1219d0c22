"""act_loss, kl_ce_loss, trades_loss and attack_grad on every backend: losses and gradients against a float64 oracle."""

import kernel_oracle as oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_variants import FLOATS, LAYOUTS, SEEDS, every_variant, relayout

from act_kernels import act_loss, attack_grad, dispatch, kl_ce_loss, ops, reference, trades_loss, use_backend
from act_kernels.reference.kl_ce_loss import ONE_A_ROW

_LARGEST = {torch.float32: 1e4, torch.float16: 6e4, torch.bfloat16: 1e4}
_TEMPERATURES = st.sampled_from((1.0, 4.0, 0.5, 3.0))


@st.composite
def logits(draw):
    """Two matrices of logits, mild or extreme, in any layout, and labels."""
    rows, classes = (
        draw(st.sampled_from((0, 1, 2, 5, 13))),
        draw(st.sampled_from((1, 2, 3, 7, 10, 16, 17, 33, 100, 257))),
    )
    dtype = draw(FLOATS)
    generator = torch.Generator().manual_seed(draw(SEEDS))
    matrices = []
    for _ in range(2):
        kind = draw(st.sampled_from(("mild", "mild", "sharp", "extreme", "equal")))
        z = torch.randn(rows, classes, generator=generator)
        if kind == "equal":
            z = torch.full_like(z, 3.0)
        if kind == "sharp":
            z = z * 20
        if kind == "extreme":
            z = torch.where(z > 0, _LARGEST[dtype], -_LARGEST[dtype])
        matrices.append(relayout(z.to(dtype), draw(st.sampled_from(LAYOUTS))))
    first, second = torch.randint(0, classes, (2, rows), generator=generator)
    shares = torch.rand(rows, generator=generator)
    dense = torch.rand(rows, classes, generator=generator)
    labels = (
        first,
        (first, second, torch.where(shares < 0.2, 0, shares)),
        (first, second, draw(st.sampled_from((0.0, 0.25, 1.0)))),
        torch.where(dense < 0.3, 0, dense).softmax(1) if draw(st.booleans()) else (dense > 0.8).float(),
    )
    return (*matrices, labels[draw(st.sampled_from((0, 0, 0, 1, 2, 3)))])


def _on(labels, device):
    """Labels of any kind on a device."""
    if isinstance(labels, tuple):
        return tuple(_on(part, device) for part in labels)
    return labels.to(device) if isinstance(labels, torch.Tensor) else labels


def _differentiate(loss_of, matrices, device):
    """The losses that loss_of(*leaves) returns, and the gradient of their sum to each matrix (zero for none)."""
    leaves = [m.to(device).detach().requires_grad_() for m in matrices]
    losses = loss_of(*leaves)
    gradients = torch.autograd.grad([loss.sum() for loss in losses], leaves, allow_unused=True)
    zeros = [torch.zeros_like(m) if g is None else g for g, m in zip(gradients, leaves, strict=True)]
    return [t.detach().cpu() for t in (*losses, *zeros)]


def _check(variant, op, loss_of, matrices, exact, rows):
    """Losses and gradients of loss_of on this variant within the budget of the reference's, both in `exact`'s order.

    `rows`: what a mean divides the gradients by, after they were stored.
    """
    dtype = matrices[0].dtype
    with use_backend("reference"):
        reference = _differentiate(loss_of("cpu"), matrices, "cpu")
    with variant.active(op, dtype):
        result = _differentiate(loss_of(variant.device), matrices, variant.device)
    for got, yardstick, value in zip(result, reference, exact, strict=True):
        oracle.assert_within_budget(got, yardstick, value, rows if got.ndim == 2 else 1)


@every_variant
@given(logits(), _TEMPERATURES, st.sampled_from((0.0, 0.5, 0.9, 1.0)), st.sampled_from((0.0, 0.3, 1.0)))
def test_act_loss(variant, drawn, temperature, robust_alpha, natural_alpha):
    z, t, labels = drawn
    rows = max(len(drawn[0]), 1)
    exact_losses, exact_gradients = [], []
    for own, other, alpha in ((z, t, robust_alpha), (t, z, natural_alpha)):
        ce, ce_grad = oracle.cross_entropy(own, labels)
        kl, kl_grad, _ = oracle.kl_divergence(other, own, temperature)
        exact_losses.append(1 / rows * ((1 - alpha) * ce + alpha * kl).sum())
        exact_gradients.append(1 / rows * ((1 - alpha) * ce_grad + alpha * kl_grad))

    def loss_of(device):
        options = {"robust_alpha": robust_alpha, "natural_alpha": natural_alpha, "temperature": temperature}
        return lambda a, b: act_loss(a, b, _on(labels, device), **options)

    _check(variant, "act_loss", loss_of, (z, t), exact_losses + exact_gradients, rows)


@every_variant
@given(
    logits(),
    _TEMPERATURES,
    st.sampled_from((0.0, 0.9, 6.0)),
    st.sampled_from((0.0, 0.1, 1.0)),
    st.sampled_from((0.0, 0.1, 1.0)),
    st.booleans(),
    st.sampled_from(("mean", "sum", "none")),
)
def test_kl_ce_loss(variant, drawn, temperature, kl_weight, ce_weight, smoothing, target_grad, reduction):
    z, t, labels = drawn
    ce, ce_grad = oracle.cross_entropy(z, labels, smoothing)
    kl, kl_grad, kl_target_grad = oracle.kl_divergence(t, z, temperature)
    rows = max(len(drawn[0]), 1) if reduction == "mean" else 1
    losses = 1 / rows * (ce_weight * ce + kl_weight * kl)
    exact = [
        losses if reduction == "none" else losses.sum(),
        1 / rows * (ce_weight * ce_grad + kl_weight * kl_grad),
        (kl_weight / rows if target_grad else 0.0) * kl_target_grad,
    ]

    def loss_of(device):
        options = {"kl_weight": kl_weight, "ce_weight": ce_weight, "temperature": temperature}
        options |= {"label_smoothing": smoothing, "target_grad": target_grad, "reduction": reduction}
        return lambda a, b: (kl_ce_loss(a, b, _on(labels, device), **options),)

    _check(variant, "kl_ce_loss", loss_of, (z, t), exact, rows)


@every_variant
@given(logits(), st.sampled_from((0.0, 1.0, 6.0)), st.sampled_from((0.0, 0.1, 1.0)))
def test_trades_loss(variant, drawn, beta, smoothing):
    natural, adversarial, labels = drawn
    rows = max(len(drawn[0]), 1)
    ce, ce_grad = oracle.cross_entropy(natural, labels, smoothing)
    options = {"beta": beta, "label_smoothing": smoothing}
    kl, kl_grad, kl_target_grad = oracle.kl_divergence(natural, adversarial, 1.0)
    exact = [(ce + beta * kl).sum(), ce_grad + beta * kl_target_grad, beta * kl_grad]

    def loss_of(device):
        return lambda a, b: (trades_loss(a, b, _on(labels, device), **options),)

    _check(variant, "kl_ce_loss", loss_of, (natural, adversarial), [1 / rows * e for e in exact], rows)


@every_variant
@given(logits(), st.sampled_from((0.0, 0.9, 1.0)), st.sampled_from((0.0, 0.1, 1.0)))
def test_attack_grad(variant, drawn, kl_weight, ce_weight):
    z, t, labels = drawn
    exact = ce_weight * oracle.cross_entropy(z, labels)[1] + kl_weight * oracle.kl_divergence(t, z, 1.0)[1]
    with use_backend("reference"):
        reference = attack_grad(z, t, labels, kl_weight=kl_weight, ce_weight=ce_weight)
    with variant.active("kl_ce_loss", z.dtype):
        arguments = _on((z.clone().requires_grad_(), t, labels), variant.device)
        result = attack_grad(*arguments, kl_weight=kl_weight, ce_weight=ce_weight)
    assert not result.requires_grad
    oracle.assert_within_budget(result.cpu(), reference, exact)


@every_variant
@pytest.mark.parametrize(("rows", "classes"), [(70_001, 3), (3, 21_841), (2, 100_003)])
def test_many_rows_and_many_classes(variant, rows, classes, several_threads):
    generator = torch.Generator().manual_seed(0)
    z, t = (3 * torch.randn(rows, classes, generator=generator) for _ in range(2))
    labels = torch.randint(0, classes, (rows,), generator=generator)
    exact = []
    for own, other in ((z, t), (t, z)):
        losses = 0.1 * oracle.cross_entropy(own, labels)[0] + 0.9 * oracle.kl_divergence(other, own, 4.0)[0]
        exact.append(1 / rows * losses.sum())
    with use_backend("reference"):
        reference = act_loss(z, t, labels)
    with variant.active("act_loss"):
        result = act_loss(*(m.to(variant.device) for m in (z, t, labels)))
    for got, yardstick, value in zip(result, reference, exact, strict=True):
        oracle.assert_within_budget(got.cpu(), yardstick, value)


# Rows in a warp's or a block's registers, in shared memory, and in Triton's several tiles, whose first is masked whole.
_MASKED = [(10, slice(2, 5)), (300, slice(0, 290)), (5003, slice(1, 4500))]


def _cross_entropy(z, labels, smoothing=0.0):
    """PyTorch's own, of each row and in float64, and the gradient of the rows' sum."""
    z = z.cpu().double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(z, labels.cpu(), label_smoothing=smoothing, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), z)[0]


@every_variant
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("classes", "masked"), _MASKED)
def test_masked_logits_without_kl_are_as_in_torch(variant, classes, masked, smoothing):
    """−inf is a class that cannot be, and a KL of weight 0 is not there, whatever its target holds."""
    z, t = 3 * torch.randn(2, 3, classes, generator=torch.Generator().manual_seed(0))
    z[:2, masked] = -torch.inf
    t[1:, 1] = torch.nan
    labels = torch.tensor([0, classes - 1, 1])
    losses, gradient = _cross_entropy(z, labels, smoothing)
    z, t, labels = (m.to(variant.device) for m in (z.requires_grad_(), t.requires_grad_(), labels))
    options = {"kl_weight": 0.0, "ce_weight": 1.0, "label_smoothing": smoothing}
    with variant.active("kl_ce_loss"):
        result = kl_ce_loss(z, t, labels, **options, temperature=2.0, target_grad=True, reduction="none")
        to_logits, to_target = torch.autograd.grad(result.sum(), (z, t))
        to_attack = attack_grad(z, t, labels, kl_weight=0.0, ce_weight=1.0)
    close = {"rtol": 2**-20, "atol": 2**-22}  # some roundings of terms up to 16, and of probabilities
    torch.testing.assert_close(result.detach().cpu().double(), losses, **close)
    torch.testing.assert_close(to_logits.cpu().double(), gradient, **close)
    torch.testing.assert_close(to_attack.cpu().double(), _cross_entropy(z.detach(), labels)[1], **close)
    assert (to_target == 0).all()


@every_variant
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float32)])
def test_logits_of_two_dtypes_are_those_of_the_wider(variant, dtypes):
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(5, 10, generator=generator).to(variant.device, d).requires_grad_() for d in dtypes)
    labels = torch.arange(5, device=variant.device)
    with variant.active("act_loss"):
        loss, wide = act_loss(z, t, labels), act_loss(z.float(), t.float(), labels)
        assert loss == wide
        gradients = torch.autograd.grad(sum(loss), (z, t))
        assert [g.dtype for g in gradients] == list(dtypes)
        for got, expected in zip(gradients, torch.autograd.grad(sum(wide), (z, t)), strict=True):
            assert torch.equal(got, expected)
        assert attack_grad(z, t, labels, kl_weight=1.0, ce_weight=0.0).dtype == dtypes[0]


@every_variant
@pytest.mark.parametrize("classes", [10, 40, 5003])
def test_a_class_of_share_0_may_be_masked(variant, classes):
    """Soft labels as in F.cross_entropy, of the rows by themselves; a masked class that a target wants has loss ∞."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, classes, generator=generator)
    z[:, 3] = -torch.inf
    first, second = torch.tensor([0, 3, 1, 2]), torch.tensor([3, 4, 3, 5])
    share = torch.tensor([1.0, 0.0, 0.5, 0.25])
    u = share[:, None] * torch.eye(classes)[first] + (1 - share[:, None]) * torch.eye(classes)[second]
    expected = -torch.where(u == 0, 0, u * z.double().log_softmax(1)).sum(1)
    assert expected.isinf().tolist() == [False, False, True, False]
    z, u, pair = _on((z, u, (first, second, share)), variant.device)
    for labels in (u, pair):
        with variant.active("kl_ce_loss"):
            losses = kl_ce_loss(z, z, labels, kl_weight=0.0, ce_weight=1.0, reduction="none")
            gradient = attack_grad(z, z, labels, kl_weight=0.0, ce_weight=1.0)
        torch.testing.assert_close(losses.cpu().double(), expected, rtol=2**-20, atol=2**-22)
        torch.testing.assert_close(gradient, z.softmax(1) - u, rtol=2**-20, atol=2**-22)


@every_variant
def test_a_side_of_act_loss_without_kl_does_not_see_the_other(variant):
    z, t = 3 * torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    z[:, 3], t[2, 7] = -torch.inf, torch.nan
    labels = torch.tensor([0, 1, 2])
    losses, gradient = _cross_entropy(z, labels)
    z, t, labels = (m.to(variant.device) for m in (z.requires_grad_(), t.requires_grad_(), labels))
    with variant.active("act_loss"):
        robust, natural = act_loss(z, t, labels, robust_alpha=0.0, natural_alpha=0.5)
        to_robust, to_natural = torch.autograd.grad((robust, natural), (z, t))
    close = {"rtol": 2**-20, "atol": 2**-22}
    torch.testing.assert_close(robust.detach().cpu().double(), losses.mean(), **close)
    torch.testing.assert_close(to_robust.cpu().double(), gradient / 3, **close)
    assert natural.isnan()
    assert to_natural[2].isnan().all()


@every_variant
def test_trades_without_kl_is_natural_training(variant):
    z, t = 3 * torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    z[:, 3], t[2, 7] = -torch.inf, torch.nan
    labels = torch.tensor([0, 1, 2])
    losses, gradient = _cross_entropy(z, labels)
    z, t, labels = (m.to(variant.device) for m in (z.requires_grad_(), t.requires_grad_(), labels))
    with variant.active("kl_ce_loss"):
        loss = trades_loss(z, t, labels, beta=0.0)
        to_natural, to_adversarial = torch.autograd.grad(loss, (z, t))
    close = {"rtol": 2**-20, "atol": 2**-22}
    torch.testing.assert_close(loss.detach().cpu().double(), losses.mean(), **close)
    torch.testing.assert_close(to_natural.cpu().double(), gradient / 3, **close)
    assert (to_adversarial == 0).all()


@every_variant
def test_a_label_out_of_range_makes_its_row_nan_whatever_the_weights(variant):
    """Where the op may not look (on a GPU), called below the check."""
    z = torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).to(variant.device)
    labels = torch.tensor([0, 10, -1], device=variant.device)
    for weights in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.5)):
        with variant.active("kl_ce_loss"):
            run = dispatch.implementation("kl_ce_loss", z)
            result = run(z, z, labels, None, None, *weights, 2.0, 0.1, 1.0, ONE_A_ROW, True, True)
        if (variant.backend, variant.device, variant.simulated) == ("native", "cpu", False):
            assert result is None  # it looks for itself
            continue
        for t in result:
            assert t.isnan().reshape(3, -1).all(1).tolist() == [False, True, True]
            assert not t[0].isnan().any()


@every_variant
def test_nan_stays_in_its_row(variant):
    z = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    z[1, 7] = torch.nan
    labels = torch.tensor([0, 1, 2])
    with variant.active("kl_ce_loss"):
        arguments = [m.to(variant.device) for m in (z, torch.zeros(3, 20), labels)]
        losses = kl_ce_loss(*arguments, kl_weight=1.0, ce_weight=1.0, reduction="none")
        gradient = attack_grad(*arguments, kl_weight=1.0, ce_weight=1.0)
    assert losses.isnan().tolist() == [False, True, False]
    assert gradient.isnan().all(1).tolist() == [False, True, False]
    assert not gradient[::2].isnan().any()


@every_variant
def test_the_losses_leave_the_logits_and_each_other_alone(variant):
    """Each loss has its own graph, kept graphs can be used again, and no write reaches the logits."""
    with variant.active("act_loss"):
        generator = torch.Generator().manual_seed(0)
        z, t = (torch.randn(4, 10, generator=generator).to(variant.device).requires_grad_() for _ in range(2))
        labels = torch.arange(4, device=variant.device)
        before, version = z.detach().clone(), z._version
        loss = act_loss(z, t, labels)
        (3 * loss.robust).backward(retain_graph=True)
        first = z.grad.clone()
        assert t.grad is None
        (3 * loss.robust).backward()
        loss.natural.backward()
        torch.testing.assert_close(z.grad, 2 * first)
        assert torch.equal(z.detach(), before)
        assert z._version == version
        with pytest.raises(RuntimeError, match="second time"):
            loss.robust.backward()


def test_no_gradient_is_computed_when_none_is_wanted(monkeypatch):
    wanted = []
    original = ops.implementation
    monkeypatch.setattr(ops, "implementation", lambda *a: lambda *b: wanted.append(b[-2:]) or original(*a)(*b))
    z, labels = torch.randn(2, 3), torch.tensor([0, 1])
    with use_backend("reference"):
        act_loss(z, z, labels)
        act_loss(z.clone().requires_grad_(), z, labels)
        with torch.no_grad():
            act_loss(z.clone().requires_grad_(), z, labels)
    assert wanted == [(False, False), (True, False), (False, False)]


@every_variant
def test_the_logits_may_be_written_to_after_the_loss(variant):
    """The gradient was computed already; for a second derivative an edge of the graph is kept, not the logits."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 4, 10, generator=generator).to(variant.device).requires_grad_()
    labels = torch.arange(4, device=variant.device)
    with variant.active("act_loss"):
        (expected,) = torch.autograd.grad(sum(act_loss(*start, labels)), start)
        z, t = (1 * m for m in start)
        loss = act_loss(z, t, labels)
        z.mul_(2)
        t.zero_()
        (got,) = torch.autograd.grad(sum(loss), start)
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (0.5, 1.0), (1.0, -3.0)])
def test_backward_scales_by_what_comes_in(variant, dtype, factors):
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(40, 30, generator=generator).to(variant.device, dtype).requires_grad_() for _ in range(2))
    labels = torch.arange(40, device=variant.device) % 30
    with variant.active("act_loss", dtype):
        once = torch.autograd.grad(act_loss(z, t, labels), (z, t))
        scaled = torch.autograd.grad(
            sum(f * loss for f, loss in zip(factors, act_loss(z, t, labels), strict=True)), (z, t)
        )
        kept = act_loss(z, t, labels)
        total = sum(f * loss for f, loss in zip(factors, kept, strict=True))
        again = [torch.autograd.grad(total, (z, t), retain_graph=True) for _ in range(2)][1]
    eps = torch.finfo(dtype).eps
    for one, by, result, repeated in zip(once, factors, scaled, again, strict=True):
        torch.testing.assert_close(result, by * one, rtol=2 * eps, atol=torch.finfo(dtype).tiny)
        torch.testing.assert_close(repeated, by * one, rtol=2 * eps, atol=torch.finfo(dtype).tiny)


@every_variant
def test_a_factor_of_1_rewrites_nothing(variant):
    """In the op as each backend has it: a gradient that holds what no product leaves alone stays as it was."""
    first, second = torch.tensor([[[torch.nan, 3.0]], [[1e-40, -torch.inf]]]).to(variant.device)
    with variant.active("act_loss"):
        run = dispatch.implementation("rescale_", first) if variant.simulated or first.is_cuda else reference.rescale_
        before = [t.clone().view(torch.int32) for t in (first, second)]
        run(first, second, torch.tensor(0.25, device=variant.device), 4.0)
        assert all(torch.equal(a, b.view(torch.int32)) for a, b in zip(before, (first, second), strict=True))
        run(None, second, torch.tensor(2.0, device=variant.device), -1.5)
    assert torch.equal(before[0], first.view(torch.int32))
    assert second.tolist() == [[pytest.approx(-3e-40, rel=1e-4), torch.inf]]
