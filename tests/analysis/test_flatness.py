"""Flatness: each measure against its definition, and a sharp minimum against a flat one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.analysis.flatness import measure_flatness, noisy_performance, predictive_entropy, top_eigenvalue
from act_engine.data import Batch, build_data
from act_engine.learners.learner import Learner, deployed


def test_entropy_of_known_predictions():
    class Logits(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    images = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]]], [[[100.0, 0.0, 0.0, 0.0]]]])
    assert predictive_entropy(Logits(), images) == pytest.approx(math.log(4) / 2)


def _problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, torch.rand(11, 1, 2, 3, dtype=torch.float64), torch.arange(11) % 3


@pytest.mark.parametrize("relative", [False, True])
def test_top_eigenvalue_equals_the_whole_hessians(relative: bool):
    model, images, labels = _problem()
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(F.cross_entropy(model(images), labels), parameters, create_graph=True)
    gradient = torch.cat([part.flatten() for part in gradient])
    rows = [torch.autograd.grad(one, parameters, retain_graph=True, materialize_grads=True) for one in gradient]
    hessian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    if relative:
        scale = torch.cat([p.detach().square().mean().sqrt().expand(p.numel()) for p in parameters])
        hessian = scale[:, None] * hessian * scale
    values = torch.linalg.eigvalsh(hessian)
    largest = values[values.abs().argmax()]
    found = top_eigenvalue(model, images, labels, relative=relative, batch_size=4)
    assert found == pytest.approx(float(largest), rel=0.02)  # it stops when a step moves it by 0.1 %
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


def test_the_relative_eigenvalue_ignores_a_scale_that_batchnorm_cancels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    images, labels = torch.rand(64, 1, 4, 4, dtype=torch.float64), torch.arange(64) % 3
    model[2].momentum = None
    model(images)  # the statistics of just these images
    before = [top_eigenvalue(model, images, labels, relative=relative) for relative in (False, True)]
    with torch.no_grad():
        model[1].weight.mul_(0.1), model[1].bias.mul_(0.1)
        model[2].eps /= 100
        model[2].running_mean.mul_(0.1), model[2].running_var.mul_(0.01)
    after = [top_eigenvalue(model, images, labels, relative=relative) for relative in (False, True)]
    assert after[1] == pytest.approx(before[1], rel=0.01)
    assert after[0] > 2 * before[0]


def test_weight_noise_has_the_relative_size_asked_for():
    """A linear model of known weights: under noise its loss is that of weights moved by sigma times their size."""
    model, images, labels = _problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accuracy, loss = noisy_performance(model, images, labels, sigma=0.0, draws=3)
    with torch.no_grad():
        logits = model(images)
    assert accuracy == float((logits.argmax(1) == labels).double().mean())
    assert loss == pytest.approx(float(F.cross_entropy(logits, labels)))

    sizes = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((100, 100), 3.0))

        def forward(self, x):
            sizes.append(float((self.weight - 3.0).norm() / (3.0 * 100)))
            return x.flatten(1)[:, :3]

    noisy_performance(Spy(), images, labels, sigma=0.2, draws=2)
    assert sizes == pytest.approx([0.2, 0.2], rel=0.05)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def _trained(train: Batch, *, batch: int, weight_decay: float, ema: float | None) -> nn.Module:
    """A perceptron after 640 steps of SGD on 512 digits."""
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers)
    learner = Learner(model, lr_at=lambda step: 0.05, weight_decay=weight_decay, ema_decay=ema)
    order = torch.Generator().manual_seed(0)
    for _ in range(640 * batch // 512):
        for chosen in torch.randperm(512, generator=order).split(batch):
            learner.backward(F.cross_entropy(learner(train.images[chosen]), train.labels[chosen]))
            learner.step()
    model.load_state_dict(deployed(learner.state_dict()[0]))
    return model.eval()


def test_a_sharp_minimum_is_less_flat():
    """The whole data in one batch and no decay, against small batches, decay and averaged weights.

    Large batches end in sharp minima (Keskar et al. 2017, arXiv 1609.04836). Same start, same number of steps, and both
    are right on every training image; what differs is how far they can be disturbed.
    """
    train = next(build_data("digits", batch_size=512, order_seed=1).train.epoch(0))
    settings = {"sigmas": (0.0, 0.2, 0.4, 0.6), "draws": 5}
    sharp = _trained(train, batch=512, weight_decay=0.0, ema=None)
    sharp = measure_flatness(sharp, train.images, train.labels, **settings)
    flat = _trained(train, batch=32, weight_decay=5e-4, ema=0.98)
    flat = measure_flatness(flat, train.images, train.labels, **settings)
    assert sharp.accuracy[0] == flat.accuracy[0] == 1
    assert sharp.accuracy == sorted(sharp.accuracy, reverse=True)
    assert flat.accuracy[-1] > sharp.accuracy[-1]
    assert flat.loss[-1] - flat.loss[0] < sharp.loss[-1] - sharp.loss[0]
    assert flat.top_eigenvalue < sharp.top_eigenvalue
    assert flat.relative_top_eigenvalue < sharp.relative_top_eigenvalue
