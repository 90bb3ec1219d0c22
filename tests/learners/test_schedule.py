"""Learning rates, weight decay, Nesterov's momentum and BatchNorm's momentum against PyTorch's own."""

import pytest
import torch
from torch import nn

from act_engine.learners import Learner, deployed, lr_schedule, momentum_cycle
from act_engine.learners.learner import decay_groups


@pytest.mark.parametrize(("epochs", "peak"), [(40, 0.1), (400, 0.025), (7, 0.3)])
def test_one_cycle_is_pytorchs_stepped_once_an_epoch(epochs, peak):
    steps = 3
    lr_at = lr_schedule(
        "onecycle_cosine", lr=0.2, steps_per_epoch=steps, total_steps=steps * epochs, peak=peak, every="epoch"
    )
    momentum_at = momentum_cycle(steps_per_epoch=steps, total_steps=steps * epochs, peak=peak, every="epoch")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, pct_start=peak, total_steps=epochs)
    for epoch in range(epochs):
        rates = [lr_at(epoch * steps + step) for step in range(steps)]
        assert rates == [pytest.approx(theirs.get_last_lr()[0], rel=1e-12)] * steps
        momenta = [momentum_at(epoch * steps + step) for step in range(steps)]
        assert momenta == [pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-12)] * steps
        optimizer.step()
        if epoch + 1 < epochs:
            theirs.step()


def test_a_warm_up_and_a_cosine_with_a_floor():
    lr_at = lr_schedule(
        "cosine", lr=0.4, steps_per_epoch=10, total_steps=100, warmup_epochs=2.5, warmup_lr=0.1, final_lr=0.02
    )
    assert [lr_at(step) for step in (0, 10, 25)] == pytest.approx([0.1, 0.22, 0.4])
    assert lr_at(25 + 75 // 3) == pytest.approx(0.02 + 0.38 * 0.75)  # a third of the way: (1 + cos 60 degrees) / 2
    assert lr_at(100) == pytest.approx(0.02)
    each = lr_schedule("cosine", lr=0.4, steps_per_epoch=10, total_steps=100, warmup_epochs=2, every="epoch")
    assert [each(step) for step in (0, 9, 10, 19, 20, 60)] == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.2])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.layer_norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 2)

    def forward(self, x):
        return self.fc(self.layer_norm(self.norm(self.conv(x)).flatten(1)))


@pytest.mark.parametrize(
    ("decayed", "spared"),
    [("all", set()), ("no_norms", {"norm", "layer_norm"}), ("matrices", {"norm", "layer_norm", "bias"})],
)
def test_weight_decay_spares_what_it_should(decayed, spared):
    """Without a gradient's push, one step of SGD shrinks exactly the decayed parameters, by lr · decay."""
    model = Net().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
    learner = Learner(model, lr_at=lambda step: 0.5, weight_decay=0.1, momentum=0.0, decayed=decayed)
    learner.backward(0 * learner(torch.rand(4, 1, 4, 4, dtype=torch.float64)).sum())
    learner.step()
    for name, parameter in model.named_parameters():
        kept = any(part in spared for part in name.split("."))
        assert torch.all(parameter == (2.0 if kept else 2.0 - 0.5 * 0.1 * 2.0)), name
    assert sum(len(group["params"]) for group in decay_groups(model, 0.1, decayed)) == len(list(model.parameters()))


def test_nesterov_and_betas_are_pytorchs():
    for settings, theirs in (
        ({"momentum": 0.8, "nesterov": True}, lambda p: torch.optim.SGD(p, 0.1, 0.8, weight_decay=0.01, nesterov=True)),
        (
            {"optimizer": "adamw", "betas": (0.7, 0.95)},
            lambda p: torch.optim.AdamW(p, 0.1, betas=(0.7, 0.95), weight_decay=0.01),
        ),
    ):
        torch.manual_seed(0)
        model, batches = nn.Linear(3, 2).double(), torch.rand(4, 5, 3, dtype=torch.float64)
        twin = nn.Linear(3, 2).double()
        twin.load_state_dict(model.state_dict())
        learner, optimizer = (
            Learner(model, lr_at=lambda step: 0.1, weight_decay=0.01, **settings),
            theirs(twin.parameters()),
        )
        for batch in batches:
            learner.backward(learner(batch).logsumexp(1).sum())
            learner.step()
            optimizer.zero_grad()
            twin(batch).logsumexp(1).sum().backward()
            optimizer.step()
        torch.testing.assert_close(model.weight, twin.weight, rtol=1e-12, atol=1e-12)


def test_batchnorm_has_its_own_momentum_in_the_first_step():
    """Running statistics by hand: those of the first batch, then a hundredth of each further one's; resume included."""
    torch.manual_seed(0)
    batches = torch.rand(4, 6, 2, 3, 3, dtype=torch.float64)

    def make():
        model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2)).double()
        return Learner(model, lr_at=lambda step: 0.1, batchnorm_momentum=0.01, batchnorm_first=1.0)

    learner, expected = make(), None
    for step, batch in enumerate(batches):
        if step == 2:  # a resumed run is past its first step
            resumed = make()
            resumed.load_state_dict(*learner.state_dict())
            learner = resumed
        learner.backward(learner(batch).logsumexp(1).sum())
        learner.step()
        mean = batch.mean((0, 2, 3))
        expected = mean if expected is None else 0.99 * expected + 0.01 * mean
    torch.testing.assert_close(learner.module[0].running_mean, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", [2.0, 2.5])
def test_the_average_follows_the_model_until_its_start(start):
    """Decay 0 while n steps < start, then min(decay, (1 + n - start) / (10 + n - start)); buffers are copied."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    learner = Learner(model, lr_at=lambda step: 0.3, ema_decay=0.25, ema_start=start, ema_buffers="copied")
    expected = {}
    for n in range(1, 7):
        learner.backward(learner(torch.rand(5, 3, dtype=torch.float64)).logsumexp(1).sum())
        learner.step()
        kept = min(0.25, (1 + n - start) / (10 + n - start)) if n >= start else 0.0
        for key, value in model.named_parameters():
            expected[key] = kept * expected.get(key, torch.zeros(())) + (1 - kept) * value.detach()
    found = deployed(learner.state_dict()[0])
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    assert not torch.equal(found["1.weight"], model[1].weight)
    assert torch.equal(found["0.running_var"], model[0].running_var)
