"""The attacks' losses against their definitions, image by image, and the targeted attack against a plain loop."""

import pytest
import torch
from torch import nn

from act_engine.attack import first_iterate
from act_engine.evaluation import PGDAttack, evaluate
from act_engine.evaluation.losses import logit_gradient


def ce(z, y, target):
    return -z.log_softmax(0)[y] if target is None else z.log_softmax(0)[target]


def margin(z, y, target):
    wrong = [z[k] for k in range(len(z)) if k != y]
    return (max(wrong) if target is None else z[target]) - z[y]


def dlr(z, y, target):
    ranked = sorted(z, reverse=True)
    spread = ranked[0] - (ranked[2] if target is None else (ranked[2] + ranked[3]) / 2)
    return margin(z, y, target) / spread


DEFINITIONS = {"ce": ce, "margin": margin, "dlr": dlr}


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", DEFINITIONS)
def test_gradients_are_those_of_the_definitions(loss, targeted, seeded):
    logits = torch.randn(30, 5, dtype=torch.float64)
    labels = torch.randint(5, (30,))
    targets = (labels + torch.randint(1, 5, (30,))) % 5 if targeted else None
    leaf = logits.clone().requires_grad_()
    rows = zip(leaf, labels, [None] * 30 if targets is None else targets, strict=True)
    expected = torch.autograd.grad(sum(DEFINITIONS[loss](*row) for row in rows), leaf)[0]
    ours = logit_gradient(loss, labels, targets)(logits)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)  # the spread's 1e-12 guards a division by 0
    assert not ours.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", DEFINITIONS)
def test_a_targeted_attack_equals_a_plain_loop(loss, norm, seeded):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, 5, bias=False)).double()
    images = torch.rand(30, 1, 6, 6, dtype=torch.float64)
    logits = model(images)
    labels = logits.argmax(1)
    eps, step, steps = (0.1, 0.03, 4) if norm == "linf" else (0.4, 0.15, 4)
    attack = PGDAttack(eps, step, steps, restarts=2, norm=norm, loss=loss, targets=2)
    result = evaluate(model, [(images, labels)], attack=attack, seed=3)

    ranked = logits.argsort(1, descending=True)
    survives = torch.ones(30, dtype=torch.bool)
    stages = []
    for restart in range(2):
        generator = torch.Generator().manual_seed((3 * 1_009 + restart) * 1_000_003)
        start = first_iterate(images, eps, norm, "uniform", generator)
        for rank in (1, 2):
            x_adv = start.clone()
            for _ in range(steps):
                x_adv.requires_grad_()
                out = model(x_adv)
                survives &= out.argmax(1) == labels
                rows = zip(out, labels, ranked[:, rank], strict=True)
                (gradient,) = torch.autograd.grad(sum(DEFINITIONS[loss](*row) for row in rows), x_adv)
                if norm == "linf":
                    moved = (x_adv + step * gradient.sign()).detach()
                    x_adv = moved.clamp(images - eps, images + eps).clamp(0, 1)
                else:
                    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                    delta = (x_adv + step * gradient / length).detach() - images
                    size = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
                    x_adv = (images + delta * (eps / size).clamp(max=1)).clamp(0, 1)
            survives &= model(x_adv).argmax(1) == labels
        stages.append(int(survives.sum()))
    assert 0 < stages[-1] < 30
    assert result.stages["robust"] == tuple(stages)
