"""The attack in float16 on models that are sure of their answer: no image loses its gradient to underflow."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.attack import AttackView, input_gradient, pgd
from act_engine.evaluation.losses import logit_gradient
from act_engine.learners import Learner

CLASSES = 4


def sure_model(sureness: float) -> nn.Module:
    """Says class k where quarter k of the image is brightest; the other logits are lower by about `sureness`.

    Its last layer has small weights, as trained ones do: that is where float16 loses the gradient first.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16, bias=False), nn.Linear(16, CLASSES, bias=False))
    model.requires_grad_(False)
    model[1].weight.copy_(1000 * torch.eye(16))
    model[2].weight.copy_(sureness / 1000 * torch.eye(CLASSES).repeat_interleave(4, 1))
    return model.eval()


def images():
    """Of every class, its quarter brighter by 1/4; the other pixels all differ."""
    labels = torch.arange(CLASSES)
    x = torch.linspace(0.3, 0.32, 16).expand(CLASSES, 16) + F.one_hot(labels).repeat_interleave(4, 1) / 4
    return x.view(CLASSES, 1, 4, 4), labels


def views(model):
    """As the training attacks it: through a copy and the model itself."""
    learner = Learner(model, lr_at=lambda step: 0.1, precision="float16")
    return {"copy": AttackView(model, precision="float16"), "itself": learner.live_view()}


@pytest.mark.parametrize("kind", ["copy", "itself"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("sureness", [1.0, 8.0, 12.0])
def test_every_image_keeps_the_gradient_of_float32(kind, loss, sureness):
    """1 − p is 2e-5 for the surest, which float16 still has; times the last layer's weights it is below what it has.

    The directions agree to float16's rounding of images, weights and results, three times 2^-11.
    """
    model = sure_model(sureness)
    x, labels = images()
    view = views(model)[kind]
    with view.ready():
        _, found = input_gradient(view, x, logit_gradient(loss, labels))
    _, expected = input_gradient(model, x, logit_gradient(loss, labels))
    assert (expected != 0).any(dim=(1, 2, 3)).all()
    agreement = F.cosine_similarity(found.flatten(1), expected.flatten(1))
    torch.testing.assert_close(agreement, torch.ones(CLASSES), rtol=0, atol=3 * 2**-11)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_moves_every_image_as_float32_does(norm):
    model = sure_model(12.0)
    x, labels = images()
    settings = {"steps": 3, "step_size": 0.02, "eps": 0.05, "norm": norm}
    moved = [
        pgd(view, x, x.clone(), logit_gradient("ce", labels), **settings) - x
        for view in (AttackView(model, precision="float16"), model)
    ]
    assert (moved[1].flatten(1).abs().amax(1) > 0.01).all()
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=3 * 2**-11 * 0.05 + 2**-23)


def test_an_image_without_gradient_has_none_and_a_bad_one_spoils_no_other():
    view = AttackView(sure_model(1.0), precision="float16")
    x, labels = images()
    upstream = logit_gradient("ce", labels)
    factors = torch.tensor([0.0, 1.0, float("nan"), 1e-30])[:, None]
    _, gradient = input_gradient(view, x, lambda logits: factors * upstream(logits))
    assert not gradient[0].any()
    assert gradient[2].isnan().any()
    _, alone = input_gradient(view, x, upstream)
    assert torch.equal(gradient[1], alone[1])
    torch.testing.assert_close(gradient[3], alone[3], rtol=2**-10, atol=0)
