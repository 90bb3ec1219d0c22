"""Measured accuracy: against a plain loop, against a model whose robustness is known, and through the run's door."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine import evaluate as door
from act_engine.config import from_mapping
from act_engine.evaluation import PGDAttack, evaluate
from act_engine.models import build_model
from act_engine.training.trainer import Trainer


class Threshold(nn.Module):
    """Says class 1 where the mean pixel is above one half: an image is robust if it lies further than eps from that."""

    def forward(self, images):
        score = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1)


def test_a_model_of_known_robustness():
    means = torch.tensor([0.40, 0.44, 0.46, 0.54, 0.56, 0.60])
    images = means.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    result = evaluate(
        Threshold(), [(images[:4], labels[:4]), (images[4:], labels[4:])], attack=PGDAttack(0.05, 0.01, 20, 2)
    )
    assert (result.samples, result.clean, result.robust) == (6, 5, 4)
    assert result.clean_accuracy == 5 / 6
    assert (result.images, result.right) == ((2, 4), {"clean": (2, 3), "robust": (2, 2)})
    assert result.stages == {"robust": (4, 4)}
    assert evaluate(Threshold(), [(images, labels)], attack=None).robust_accuracy is None


def test_uint8_images_mean_the_same():
    images = (torch.rand(16, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    labels = torch.arange(16) % 2
    attack = PGDAttack(0.02, 0.005, 5, 1)
    as_float = evaluate(Threshold(), [(images / 255, labels)], attack=attack)
    assert evaluate(Threshold(), [(images, labels)], attack=attack) == as_float


def test_equals_a_plain_loop_over_every_iterate(seeded):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).double().eval()
    images, labels = torch.rand(40, 1, 8, 8, dtype=torch.float64), torch.randint(10, (40,))
    labels[::2] = model(images).argmax(1)[::2]  # so that some are right to begin with
    eps, step, steps = 0.1, 0.02, 8
    result = evaluate(model, [(images, labels)], attack=PGDAttack(eps, step, steps, restarts=1), seed=5)

    right = model(images).argmax(1) == labels
    x, y = images[right], labels[right]
    generator = torch.Generator().manual_seed(5 * 1_009 * 1_000_003)
    noise = torch.empty_like(images).uniform_(-1, 1, generator=generator)[right]
    x_adv = (x + eps * noise).clamp(0, 1)
    survives = torch.ones(len(y), dtype=torch.bool)
    for _ in range(steps):
        x_adv.requires_grad_()
        logits = model(x_adv)
        survives &= logits.argmax(1) == y
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y), x_adv)
        x_adv = (x_adv.detach() + step * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    survives &= model(x_adv).argmax(1) == y
    assert 0 < survives.sum() < len(y)
    assert (result.clean, result.robust) == (int(right.sum()), int(survives.sum()))


def test_the_model_comes_back_as_it_was(seeded):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evaluate(model, [(torch.rand(4, 1, 8, 8), torch.arange(4))], attack=PGDAttack(0.1, 0.05, 2, 1))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        evaluate(Threshold(), [], attack=None)


def test_the_door_measures_a_run_again(tiny_config, tmp_path, capsys):
    folder = tmp_path / "run"
    assert Trainer(from_mapping(tiny_config), folder).run() == 0
    first = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").unlink()
    assert door.main([str(folder)]) == 0
    assert json.loads((folder / "evaluation.json").read_text()) == first
    assert door.main([str(folder), "--steps", "6", "--restarts", "1", "--eps", "1/10", "--seed", "7"]) == 0
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["seed"] == 7
    assert again["attack"] == {**first["attack"], "eps": 0.1, "step_size": 2.5 * 0.1 / 6, "steps": 6, "restarts": 1}
    assert again["models"]["robust"]["clean_accuracy"] == first["models"]["robust"]["clean_accuracy"]
    shown = capsys.readouterr().out
    assert "PGD-6" in shown
    assert f"{100 * again['models']['natural']['robust_accuracy']:.1f}" in shown
