"""MixUp and CutMix against loops over pixels, and every loss and attack on mixed labels against its formula."""

import copy

import pytest
import torch
import torch.nn.functional as F

from act_engine.attack import Attack, LiveView, MixedLabels, correction, distribution
from act_engine.config import from_mapping
from act_engine.objectives import build_objective, cross_entropy, over_classes, soft_term
from act_engine.training.mixing import Mixing
from act_engine.training.trainer import Trainer

B, CLASSES = 6, 5


def labels() -> MixedLabels:
    torch.manual_seed(1)
    first = torch.randint(0, CLASSES, (B,))
    return MixedLabels(first, first.flip(0), torch.full((B,), 0.3, dtype=torch.float64))


def dense(mixed: MixedLabels, smoothing: float) -> torch.Tensor:
    rows = torch.full((B, CLASSES), smoothing / CLASSES, dtype=torch.float64)
    for i in range(B):
        rows[i, mixed.first[i]] += (1 - smoothing) * mixed.share[i]
        rows[i, mixed.second[i]] += (1 - smoothing) * (1 - mixed.share[i])
    return rows


def test_mixup_and_cutmix_pixel_by_pixel():
    images, classes = torch.rand(B, 2, 7, 9, dtype=torch.float64), torch.arange(B)
    kinds = set()
    for step in range(40):
        mixing = Mixing(0.8, 1.0, probability=0.8, switch=0.5, seed=3)
        mixed, new = mixing(images, classes, step)
        again, _ = mixing(images, classes, step)
        assert torch.equal(mixed, again)
        assert torch.equal(new.first, classes)
        assert torch.equal(new.second, classes.flip(0))
        share = new.share[0].item()
        own, other = (mixed == images).all(1), (mixed == images.flip(0)).all(1)
        if share == 1:
            assert own.all()
            kinds.add("neither" if torch.equal(mixed, images) else "?")
        elif (own | other).all():  # CutMix: the share of the pixels is that of the label
            assert own.double().mean((1, 2)).tolist() == pytest.approx([share] * B)
            kinds.add("cutmix")
        else:
            torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0), rtol=0, atol=1e-15)
            kinds.add("mixup")
    assert kinds == {"neither", "cutmix", "mixup"}
    assert isinstance(Mixing(0.8, 0.0, 1.0, 0.5, 0)((images * 255).byte(), classes, 0)[0], torch.Tensor)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_a_loss_of_one_class_lacks(smoothing: float):
    logits, mixed = torch.randn(B, CLASSES, dtype=torch.float64), labels()
    u = dense(mixed, smoothing)
    expected = -(u * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distribution(mixed, logits, smoothing), u)
    torch.testing.assert_close(cross_entropy(logits, mixed, smoothing), expected)
    torch.testing.assert_close(F.cross_entropy(logits, mixed.first) + soft_term(logits, mixed, smoothing), expected)
    torch.testing.assert_close(F.one_hot(mixed.first, CLASSES) - correction(mixed, logits, smoothing), u)
    assert soft_term(logits, mixed.first, 0.0) == 0
    assert over_classes(mixed, lambda y: y.double()).tolist() == pytest.approx(
        (0.3 * mixed.first + 0.7 * mixed.second).tolist()
    )


class Same:
    """An attack that gives the images back."""

    def __call__(self, images, labels, target=None):
        return images

    def clean_logits(self, images):
        return images


@pytest.mark.parametrize("name", ["act", "natural", "madry", "trades", "mart", "lbgat"])
def test_losses_are_linear_in_the_shares(name: str):
    """A loss to mixed labels is the shares' mean of the losses to either class."""
    torch.manual_seed(0)
    images, mixed = torch.randn(B, CLASSES, dtype=torch.float64), labels()
    models = {"robust": lambda x: x * 1.5, "natural": lambda x: x.cos()}
    objective = build_objective(name, label_smoothing=0.1)
    both = [objective.losses(models, Same(), images, y) for y in (mixed.first, mixed.second)]
    found = objective.losses(models, Same(), images, mixed)
    for key, value in found.items():
        expected = 0.3 * both[0][key] + 0.7 * both[1][key]
        if name != "mart":  # whose last term is a product of two that are linear
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        if (name, key) != ("lbgat", "robust"):  # which no label is in
            assert not torch.equal(value, both[0][key])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_attack_climbs_the_mixed_cross_entropy(smoothing: float):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, CLASSES)).double()
    x, mixed = torch.rand(B, 3, 2, 2, dtype=torch.float64), labels()
    attack = Attack(
        LiveView(model, model),
        kl_weight=0.0,
        ce_weight=1.0,
        start="none",
        steps=1,
        step_size=0.01,
        eps=0.1,
        norm="l2",
        generator=torch.Generator(),
        label_smoothing=smoothing,
    )
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(-(dense(mixed, smoothing) * model(start).log_softmax(1)).sum(), start)
    expected = (x + 0.01 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)
    torch.testing.assert_close(attack(x, mixed), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["act", "trades"])
def test_a_run_that_mixes_goes_on_to_the_same_bits(tmp_path, name: str):
    settings = {
        "objective": {"name": name, "label_smoothing": 0.1},
        "attack": {"steps": 1},
        "data": {"train_samples": 40, "batch_size": 10, "erasing": 0.5, "jitter": 0.2},
        "train": {"epochs": 2, "device": "cpu", "progress": "none", "mixup": 0.8, "cutmix": 1.0, "accumulate": 2},
        "checkpoint": {"every_steps": 1},
        "evaluate": {"attack": "none", "images": 10},
    }
    whole = Trainer(from_mapping(settings), tmp_path / "whole")
    assert whole.run() == 0
    stopped = copy.deepcopy(settings)
    stopped["train"]["max_steps"] = 5
    assert Trainer(from_mapping(stopped), tmp_path / "parts").run() == 0
    parts = Trainer(from_mapping(settings), tmp_path / "parts")
    assert (parts.step, parts.run()) == (5, 0)
    for learner in whole.learners:
        for key, value in whole.learners[learner].state_dict()[0].items():
            assert torch.equal(value, parts.learners[learner].state_dict()[0][key]), key
