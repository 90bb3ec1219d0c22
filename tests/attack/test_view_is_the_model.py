"""The attack view is the model whatever the model does, or the model itself is used and a warning says so."""

import copy
import warnings

import odd_models as odd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from act_engine.attack import Attack, AttackView, input_gradient, pgd
from act_engine.attack.agreement import disagreement, moved
from act_engine.evaluation import PGDAttack, evaluate


@pytest.fixture(autouse=True)
def quiet():
    """No warning but those that a test asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*attacked", UserWarning)
        yield


def direction(logits):
    return logits.softmax(1) - F.one_hot(torch.zeros(len(logits), dtype=torch.int64), logits.shape[1])


def by_hand(model, images):
    """Logits and input gradient of a copy of the model in eval mode, on a copy of the images."""
    model, leaf = copy.deepcopy(model).eval(), images.clone().requires_grad_()
    logits = model(leaf.clone())
    (gradient,) = torch.autograd.grad(logits, leaf, direction(logits.detach()))
    return logits.detach(), gradient


def assert_is(view, model, images):
    """float64: a few layers of a few hundred products each, so 1e-10 of the largest entry is over 1,000 roundings."""
    expected_logits, expected_gradient = by_hand(model, images)
    for _ in range(2):  # the first batch is compared, and later ones are not
        logits, gradient = input_gradient(view, images, direction)
        for found, expected in ((logits, expected_logits), (gradient, expected_gradient)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


IMAGES = (4, 3, 6, 6)
FOLDED = {  # the model: how many of its BatchNorms are folded once a batch was seen
    odd.Base: 1,
    odd.TokenNorm: 0,
    odd.FewerTokens: 0,
    odd.SyncedTokenNorm: 0,
    odd.LinearOverWidth: 0,
    odd.SometimesTokens: 1,
    odd.TiedDecoder: 0,
    odd.ReadsGamma: 0,
    odd.ReadsRunningMean: 0,
    odd.ReadsDtype: 1,
    odd.StaysInTrainMode: 0,
    odd.TrainsInForward: 0,
    odd.OwnForward: 0,
    odd.Normalises: 1,
    odd.WritesACorner: 0,  # no trace follows it
    odd.RelusItsInput: 1,
}


@pytest.mark.parametrize("kind", FOLDED)
def test_the_copy_is_the_model(kind, seeded):
    model, images = odd.randomise(kind()), torch.rand(IMAGES, dtype=torch.float64)
    state, before = copy.deepcopy(model.state_dict()), images.clone()
    view = AttackView(model)
    assert_is(view, model, images)
    assert (view.why_live, len(view.folded)) == (None, FOLDED[kind])
    assert torch.equal(images, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("kind", [odd.WeightNormInLogits, odd.ReadsState])
def test_what_no_trace_sees_the_first_batch_shows(kind, seeded):
    model, images = odd.randomise(kind()), torch.rand(IMAGES, dtype=torch.float64)
    view = AttackView(model)
    assert view.folded
    with pytest.warns(UserWarning, match=f"{kind.__name__} is attacked.*rounding explains"):
        assert_is(view, model, images)
    assert "logits off by" in view.why_live
    assert_is(view, model, torch.rand_like(images))  # and says it once
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


class Closure(odd.Base):
    """Reaches by a function into the model that it was made for, which a copy shares with it."""

    def __init__(self):
        super().__init__()
        self.run = lambda x: nn.functional.dropout(self.features(x).mean((2, 3)), 0.5, self.training)

    def forward(self, x):
        return self.fc(self.run(x))


class HookOnItself(odd.Base):
    """A hook notes on the model what a layer gives, and the forward reads it there."""

    def __init__(self):
        super().__init__()
        self.bn.register_forward_hook(lambda module, inputs, output: setattr(self, "kept", output))

    def forward(self, x):
        self.features(x)
        return self.fc(self.kept.relu().mean((2, 3)))


@pytest.mark.parametrize("kind", [Closure, HookOnItself])
def test_a_copy_that_reaches_into_the_model_is_not_used(kind, seeded):
    model = odd.randomise(
        kind()
    ).eval()  # in eval mode the copy would give the right logits today, and others in training
    images = torch.rand(IMAGES, dtype=torch.float64)
    expected = model(images).detach()
    attributes = set(vars(model))
    view = AttackView(model)
    with pytest.warns(UserWarning, match="attacked"):
        torch.testing.assert_close(view(images).detach(), expected, rtol=0, atol=1e-12)
    model.train()
    torch.testing.assert_close(view(images).detach(), expected, rtol=0, atol=1e-12)
    assert set(vars(model)) == attributes


def test_the_models_own_error_is_not_covered_up(seeded):
    model = odd.Base()
    with pytest.raises(RuntimeError, match="3 channels"):
        AttackView(model)(torch.rand(2, 4, 6, 6))


def test_an_attack_in_training_falls_back_and_leaves_no_trace(seeded):
    model, images = odd.randomise(odd.WeightNormInLogits()), torch.rand(IMAGES, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    attack = Attack(
        AttackView(model),
        kl_weight=0.0,
        ce_weight=1.0,
        start="none",
        steps=3,
        step_size=0.02,
        eps=0.05,
        generator=torch.Generator(),
    )
    expected = pgd(copy.deepcopy(model).eval(), images, images.clone(), direction, steps=3, step_size=0.02, eps=0.05)
    with pytest.warns(UserWarning, match="attacked"):
        found = attack(images, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Views(odd.Base):
    """Takes views of what a convolution gives, which channels_last does not allow."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6 * 36, 5)

    def forward(self, x):
        return self.fc(self.features(x).view(-1, 6 * 36))


class NoisyPixels(odd.Base):
    """Draws noise like its input, whose layout decides which pixel gets which number."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


@pytest.mark.parametrize("kind", [Views, NoisyPixels])
def test_a_model_that_needs_the_usual_layout_gets_it(kind, seeded):
    model, images = odd.randomise(kind()), torch.rand(IMAGES, dtype=torch.float64)
    view = AttackView(model)
    for _ in range(2):
        torch.manual_seed(7)
        found = view(images)
        torch.manual_seed(7)
        torch.testing.assert_close(found, copy.deepcopy(model).eval()(images).detach(), rtol=1e-10, atol=1e-12)
    assert view.why_not_channels_last is not None
    assert view.why_live is None
    assert len(view.folded) == 1


def test_random_numbers_are_as_without_the_comparison(seeded):
    """A model of chance, such as dropout in eval mode, is compared on the same draws, and the stream goes on."""

    class Chance(odd.Base):
        def forward(self, x):
            return self.fc(F.dropout(self.features(x).mean((2, 3)), 0.5))

    model, images = odd.randomise(Chance()), torch.rand(100, 3, 6, 6, dtype=torch.float64)
    torch.manual_seed(5)
    expected = [copy.deepcopy(model).eval()(images).detach() for _ in range(2)]
    view = AttackView(model)
    torch.manual_seed(5)
    for one in expected:
        torch.testing.assert_close(view(images), one, rtol=0, atol=1e-12)
    assert view.why_live is None


def test_only_the_first_batch_is_compared(seeded):
    """The live model runs beside the view for one batch, and never again; a new copy is compared anew."""
    model, images = odd.Base(), torch.rand(IMAGES)
    view = AttackView(model)
    calls = []
    model.conv.register_forward_pre_hook(lambda module, inputs: calls.append(module is model.conv))
    view.refresh()  # the hook is new to it
    for _ in range(3):
        with view.ready():
            view(images)
            view(images)
    assert sum(calls) == 2
    assert len(calls) == 2 + 6


class Operators(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_later_pass_costs_what_its_copy_costs(seeded):
    """Operator for operator: a pass through the view is one of its folded module, with nothing before or after it."""
    view, images = AttackView(odd.Base()), torch.rand(IMAGES).contiguous(memory_format=torch.channels_last)
    with view.ready(), torch.no_grad():
        view(images)
        with Operators() as first:
            view(images)
        with Operators() as expected:
            view.module(images)
    assert first.names == expected.names
    assert not any("batch_norm" in name for name in first.names)
    with Operators() as outside, torch.no_grad():  # nothing was written to: only looked for
        view(images)
    assert outside.names == expected.names


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_rounding_is_no_difference(precision, seeded):
    """30 layers of a random network, which amplify rounding as trained ones do not."""
    layers = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(30):
        layers += [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    model = odd.randomise(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))).float()
    view = AttackView(model, precision=precision)
    view(torch.rand(32, 3, 8, 8))
    assert view.why_live is None


def test_the_bound_is_that_of_rounding():
    exact = torch.randn(64, 10, dtype=torch.float64)
    unit = 2.0**-24
    assert disagreement(exact + 0.9 * unit**0.5 * exact.abs().max(), exact, exact, unit) is None
    assert "off by" in disagreement(exact + 1.1 * unit**0.5 * exact.abs().max(), exact, exact, unit)
    assert disagreement(exact + 0.39, exact, exact + 0.1, unit) is None  # the model itself is as sensitive
    nan = exact.clone()
    nan[3, 4] = torch.nan
    assert "off by" in disagreement(nan, exact, exact, unit)
    assert "finite" in disagreement(exact, nan, exact, unit)
    assert disagreement(nan, nan, exact, unit) is None
    assert disagreement(nan, exact, nan, unit) is None  # too much for the precision that was asked for
    masked = exact.clone()
    masked[:, 0] = -torch.inf
    assert disagreement(masked, masked, masked, unit) is None
    assert "shape" in disagreement(exact[:, :9], exact, exact, unit)


def test_images_are_moved_by_half_the_digits():
    images = torch.rand(8, 3, 6, 6)
    change = (moved(images, 2.0**-24) / images - 1) / 2.0**-12
    assert 0.99 < change.abs().min() <= change.abs().max() < 1.01
    assert 0.3 < (change > 0).float().mean() < 0.7


@pytest.mark.parametrize("kind", [odd.TokenNorm, odd.StaysInTrainMode, odd.Normalises, odd.TiedDecoder])
def test_an_evaluation_measures_the_model_and_leaves_no_trace(kind, seeded):
    """The labels are the model's own answers, so it is right about every image, and about fewer under attack."""
    model, images = odd.randomise(kind()), torch.rand(64, 3, 6, 6, dtype=torch.float64)
    state, before = copy.deepcopy(model.state_dict()), images.clone()
    labels = copy.deepcopy(model).eval()(images.clone()).argmax(1)
    attack = PGDAttack(0.2, 0.05, 10, 1)
    measured = evaluate(model, [(images, labels)], attack=attack, warn=lambda text: None)
    assert measured.clean_accuracy == 1
    assert measured.robust_accuracy < 1
    assert torch.equal(images, before)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
