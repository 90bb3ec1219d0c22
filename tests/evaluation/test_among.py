"""A model that is measured on a part of its classes chooses among those alone, under attack too."""

import pytest
import torch
from torch import nn

from act_engine.attack import AttackView
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data import as_loader, build_data
from act_engine.evaluation import evaluate_models
from act_engine.models import Among
from act_engine.parallel import World

WORLD = World(0, 1, torch.device("cpu"), 60.0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


def test_the_others_are_never_chosen_and_the_chosen_ones_keep_logits_and_gradients():
    model, images = net(), torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    among = Among(model, [1, 4, 7]).eval()
    logits, whole = among(images), model(images)
    assert torch.equal(logits[:, [1, 4, 7]], whole[:, [1, 4, 7]])
    assert set(logits.argmax(1).tolist()) <= {1, 4, 7}
    assert logits.softmax(1)[:, [0, 2, 3, 5, 6, 8, 9]].max() == 0
    leaf = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(among(leaf), torch.full((6,), 4))
    (gradient,) = torch.autograd.grad(loss, leaf)
    other = images.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(other)[:, [1, 4, 7]], torch.ones(6, dtype=torch.int64))
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, other)[0])
    assert torch.equal(AttackView(among)(images), logits)


@pytest.mark.parametrize("attack", ["pgd", "apgd-ce", "fab-t"])
def test_an_attack_finds_no_class_that_is_not_there(attack):
    """On test images of 3 classes alone: at least as robust as among all, and by the figure of a model of 3 classes."""
    if attack != "pgd":
        pytest.importorskip("pyautoattack")
    loader = build_data("digits", batch_size=100, classes=3).test
    settings = {
        "attack": attack,
        "eps": 0.05,
        "steps": 5,
        "restarts": 1,
        "check_masking": False,
        "images": 8 if attack == "fab-t" else 60,
    }
    model = net().double()
    found = {}
    for among in ("all", "present"):
        measured = evaluate_models(
            {"m": Exact(model)},
            loader,
            AttackConfig(),
            EvaluateConfig(among=among, **settings),
            seed=0,
            world=WORLD,
        )
        found[among] = measured["models"]["m"]
    assert found["present"]["clean_accuracy"] > found["all"]["clean_accuracy"]
    assert found["present"]["robust_accuracy"] >= found["all"]["robust_accuracy"]
    few = Exact(model, 3)
    alone = evaluate_models({"m": few}, loader, AttackConfig(), EvaluateConfig(**settings), seed=0, world=WORLD)[
        "models"
    ]["m"]
    assert alone["clean_accuracy"] == found["present"]["clean_accuracy"]
    if attack != "fab-t":  # which takes another number of targets there
        assert alone["robust_accuracy"] == found["present"]["robust_accuracy"]


class Exact(nn.Module):
    """In float64, whose rounding turns no sign; FAB takes float32 alone. The first so many logits."""

    def __init__(self, model, count=10):
        super().__init__()
        self.model, self.count = model, count

    def forward(self, images):
        return self.model(images.double()).float()[:, : self.count]


def test_batches_of_ones_own_do_not_tell_their_classes():
    batches = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    with pytest.raises(ValueError, match=r"evaluate\.among: got 'present'; allowed with batches of your own: all"):
        evaluate_models(
            {"m": net()},
            as_loader(batches),
            AttackConfig(),
            EvaluateConfig(attack="none", among="present"),
            seed=0,
            world=WORLD,
        )
