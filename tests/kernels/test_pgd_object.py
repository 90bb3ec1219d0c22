"""PGD as an object: against plain PyTorch, and what it keeps its hands off."""

import pytest
import torch
import torch.nn.functional as F

from act_kernels import PGD


@pytest.fixture
def task():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
    return model.double(), torch.rand(6, 3, 4, 4, dtype=torch.float64), torch.arange(6) % 5


def plain(model, x, labels, eps, step_size, steps, norm):
    x_adv = x
    for _ in range(steps):
        leaf = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        if norm == "linf":
            x_adv = (x_adv + step_size * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        else:
            x_adv = x_adv + step_size * grad / grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            change = x_adv - x
            x_adv = x + change * (eps / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp_max(1)
            x_adv = x_adv.clamp(0, 1)
    return x_adv.detach()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
@pytest.mark.parametrize("mixed", [False, True])
def test_it_is_pgd(task, norm, eps, mixed):
    model, x, labels = task
    if mixed:  # as MixUp gives them
        labels = 0.7 * F.one_hot(labels, 5).double() + 0.3 * F.one_hot(labels.flip(0), 5).double()
    found = PGD(eps, eps / 3, 5, norm=norm, random_start=False)(model, x, labels)
    torch.testing.assert_close(found, plain(model, x, labels, eps, eps / 3, 5, norm), rtol=0, atol=5 * 2**-50)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_random_start_follows_the_generator_and_stays_in_the_ball(task):
    model, x, labels = task
    attack = PGD(0.1, 0.03, 3)
    with torch.no_grad():  # as under an evaluation
        first, same, other = (attack(model, x, labels, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert (first - x).abs().max() <= 0.1 + 2**-50
    assert attack == PGD(eps=0.1, step_size=0.03, steps=3)
    with pytest.raises(ValueError, match="eps"):
        PGD(-0.1, 0.03, 1)(model, x, labels)
