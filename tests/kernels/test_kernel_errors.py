"""What a user's mistake gets: an error that names the argument and says what was expected."""

import pytest
import torch
from kernel_variants import needs_native

from act_kernels import (
    act_loss,
    attack_grad,
    kl_ce_loss,
    pgd_step,
    random_start,
    trades_loss,
    use_backend,
)
from act_kernels.reference.kl_ce_loss import ONE_A_ROW

_X = torch.full((2, 3, 4, 4), 0.5)
_Z = torch.zeros(2, 5)
_Y = torch.tensor([0, 4])


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"grad": None}, TypeError, "grad: expected the gradient of the loss to x_adv, got None"),
        ({"grad": _X[:1]}, ValueError, r"grad: expected the shape of x_adv, \(2, 3, 4, 4\), got \(1, 3, 4, 4\)"),
        ({"grad": _X.long()}, TypeError, "grad: expected float32.*got int64"),
        ({"grad": _X.to("meta")}, ValueError, "grad: expected the device of x_adv, cpu, got meta"),
        ({"x_adv": _X.byte()}, TypeError, "x_adv: expected float32.*got uint8"),
        ({"x_adv": torch.tensor(0.5)}, ValueError, r"x_adv: expected a batch of images \[N, ...\]"),
        ({"x": _X[..., :2]}, ValueError, "x: expected the shape of x_adv"),
        ({"x": _X.half()}, TypeError, r"x \(unless it is uint8\): expected the dtype of x_adv, float32, got float16"),
        ({"eps": -0.1}, ValueError, "eps: expected a value >= 0, got -0.1"),
        ({"eps": torch.tensor([0.1, -0.1])}, ValueError, "eps: expected values >= 0"),
        ({"eps": torch.ones(3)}, ValueError, r"eps: expected a number or one value a sample, \(2,\), got \(3,\)"),
        ({"step_size": torch.ones(2, device="meta")}, ValueError, "step_size: expected the device of the images"),
        ({"step_size": float("nan")}, ValueError, "step_size: expected a number, got nan"),
        ({"lower": torch.ones(2)}, ValueError, r"lower: expected a number or one value a channel, \(3,\), got \(2,\)"),
        ({"lower": 0.9, "upper": 0.1}, ValueError, "lower: expected a value <= upper, 0.1, got 0.9"),
        ({"norm": "l1"}, ValueError, "norm: expected one of linf, l2, got 'l1'"),
        ({"x_adv": _X, "x": _X, "inplace": True}, ValueError, "inplace: x_adv must not share memory"),
    ],
)
def test_pgd_step(overrides, error, message):
    arguments = {"x_adv": _X.clone(), "grad": _X, "x": _X, "step_size": 0.1, "eps": 0.1} | overrides
    with pytest.raises(error, match=message):
        pgd_step(**arguments)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"eps": -1.0}, ValueError, "eps: expected a value >= 0"),
        ({"eps": torch.tensor([0.1, -0.1])}, ValueError, "eps: expected values >= 0"),
        ({"sigma": -1.0, "kind": "gaussian"}, ValueError, "sigma: expected a value >= 0"),
        ({"kind": "normal"}, ValueError, "kind: expected one of uniform, gaussian"),
        ({"norm": "l0"}, ValueError, "norm: expected one of linf, l2"),
        ({"x": _X.int()}, TypeError, r"x \(unless it is uint8\): expected float32"),
    ],
)
def test_random_start(overrides, error, message):
    with pytest.raises(error, match=message):
        random_start(**({"x": _X, "eps": 0.1} | overrides))


@pytest.mark.parametrize(
    ("logits", "other", "labels", "error", "message"),
    [
        (_Z[0], _Z[0], _Y, ValueError, r"expected shape \[B, C\]"),
        (_Z[:, :0], _Z[:, :0], _Y, ValueError, r"at least one class, got \(2, 0\)"),
        (_Z, _Z[:1], _Y, ValueError, r"expected the shape of \w+, \(., 5\), got"),
        (_Z.long(), _Z, _Y, TypeError, "expected float32.*got int64"),
        (_Z, _Z, _Y.int(), TypeError, "labels: expected int64 class indices, got int32"),
        (_Z, _Z, _Y[:1], ValueError, r"labels: expected one label a row, shape \(2,\), got \(1,\)"),
        (_Z, _Z, _Y.to("meta"), ValueError, "labels: expected the device of"),
        (_Z, _Z, torch.tensor([0, 5]), ValueError, r"labels: expected values in \[0, 5\), got 0 to 5"),
        (_Z, _Z, torch.tensor([-100, 0]), ValueError, r"labels: expected values in \[0, 5\), got -100 to 0"),
    ],
)
def test_losses(logits, other, labels, error, message):
    weights = {"kl_weight": 1.0, "ce_weight": 1.0}
    for loss, options in ((act_loss, {}), (kl_ce_loss, weights), (trades_loss, {}), (attack_grad, weights)):
        with pytest.raises(error, match=message):
            loss(logits, other, labels, **options)


def test_weights():
    with pytest.raises(ValueError, match=r"robust_alpha: expected a value in \[0, 1\], got 1.5"):
        act_loss(_Z, _Z, _Y, robust_alpha=1.5)
    with pytest.raises(ValueError, match="natural_alpha"):
        act_loss(_Z, _Z, _Y, natural_alpha=-0.1)
    with pytest.raises(ValueError, match="temperature: expected a finite value > 0, got 0"):
        act_loss(_Z, _Z, _Y, temperature=0.0)
    with pytest.raises(ValueError, match="kl_weight: expected a finite number"):
        kl_ce_loss(_Z, _Z, _Y, kl_weight=float("inf"), ce_weight=0.0)
    with pytest.raises(ValueError, match="label_smoothing"):
        kl_ce_loss(_Z, _Z, _Y, kl_weight=1.0, ce_weight=0.0, label_smoothing=1.1)
    with pytest.raises(ValueError, match="reduction: expected one of mean, sum, none, got 'max'"):
        kl_ce_loss(_Z, _Z, _Y, kl_weight=1.0, ce_weight=0.0, reduction="max")
    with pytest.raises(ValueError, match="beta"):
        trades_loss(_Z, _Z, _Y, beta=float("nan"))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ((_Y, _Y), ValueError, r"a pair with a share, \(labels, other_labels, share\), got 2 parts"),
        ((_Y, _Y, 1.5), ValueError, r"labels: share: expected a value in \[0, 1\], got 1.5"),
        ((_Y, _Y, torch.tensor([0.5, -0.1])), ValueError, r"labels: expected shares in \[0, 1\]"),
        ((_Y, _Y, torch.ones(3)), ValueError, r"labels: expected a share a row, shape \(2,\), got \(3,\)"),
        ((_Y, torch.tensor([0, 5]), 0.5), ValueError, r"labels: expected values in \[0, 5\), got 0 to 5"),
        ((_Y, _Y.int(), 0.5), TypeError, "labels: expected int64 class indices, got int32"),
        (_Z[:, :4], ValueError, r"labels: expected distributions of \w+'s shape, \(2, 5\), got \(2, 4\)"),
        ([0, 4, 1], TypeError, "labels: expected int64 class indices, got int"),
    ],
)
def test_soft_labels(labels, error, message):
    weights = {"kl_weight": 1.0, "ce_weight": 1.0}
    for loss, options in ((act_loss, {}), (kl_ce_loss, weights), (trades_loss, {}), (attack_grad, weights)):
        with pytest.raises(error, match=message):
            loss(_Z, _Z, labels, **options)


@needs_native
def test_labels_out_of_range_never_reach_the_native_kernels_memory():
    """The kernel itself, called past the check: it takes nothing, and writes nothing."""
    labels = torch.tensor([2**62, -1])
    numbers = (1.0, 1.0, 1.0, 2.0, 0.0, 1.0, ONE_A_ROW)
    for bad in ((labels, None, None), (_Y, labels, torch.ones(2))):
        results = [torch.full((2,), 7.0), torch.full_like(_Z, 7.0), torch.full_like(_Z, 7.0)]
        assert not torch.ops.act_kernels.kl_ce_loss.native(*results, _Z, _Z, *bad, *numbers)
        assert all(bool((t == 7).all()) for t in results)


def test_backend_names():
    with pytest.raises(ValueError, match="unknown backend 'cuda'; expected one of reference, native, triton, auto"):
        use_backend("cuda")
