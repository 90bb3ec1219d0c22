"""One training step of each method against a transcription of its formulas in plain PyTorch, in float64, to 1e-10."""

import copy

import pytest
import torch
import torch.nn.functional as F

from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.resolve import stream
from act_engine.trainer import Trainer

EPS, STEP_SIZE, STEPS, LR, MOMENTUM, DECAY = 0.15, 0.0375, 4, 0.1, 0.9, 5e-4


def make_trainer(folder, objective, attack, train=()):
    config = from_mapping(
        {
            "objective": objective,
            "attack": {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS, **attack},
            "data": {"name": "digits", "batch_size": 32},
            "optim": {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": "constant"},
            "train": {"epochs": 1, "seed": 3, "device": "cpu", **dict(train)},
        }
    )
    trainer = Trainer(config, folder)
    for learner in trainer.learners.values():
        learner.module.double()
    trainer.attack = trainer._attack()  # its view copies the models as they are now
    return trainer


def kl(target_logits, logits, temperature=1.0):
    """KL(softmax(target / T) ‖ softmax(logits / T)), summed over classes, one value a sample."""
    target, log_p = F.softmax(target_logits / temperature, 1), F.log_softmax(logits / temperature, 1)
    return (target * (target.log() - log_p)).sum(1)


def gaussian_start(x, seed, step):
    generator = torch.Generator().manual_seed(stream(seed, step, "attack"))
    return x + 0.001 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def uniform_start(x, seed, step):
    generator = torch.Generator().manual_seed(stream(seed, step, "attack"))
    noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
    return (x + EPS * noise).clamp(0, 1)


def plain_attack(model, x, x_adv, loss):
    """PGD as it is written in the papers: sign step, projection onto the eps-ball around x, clamp to [0, 1]."""
    model.eval()
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(x_adv)), x_adv)
        x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    return x_adv


def plain_update(model, loss, buffers):
    """SGD with momentum and weight decay, as in PyTorch's documentation."""
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gradient = parameter.grad + DECAY * parameter
            buffers[name] = MOMENTUM * buffers[name] + gradient if name in buffers else gradient
            parameter -= LR * buffers[name]


def act(models, buffers, x, y, step, alpha=0.9, temperature=4.0, attack_loss="kl"):
    robust, natural = models["robust"], models["natural"]
    target = natural(x)
    losses = {
        "kl": lambda z: kl(target.detach(), z).sum(),
        "ce": lambda z: F.cross_entropy(z, y, reduction="sum"),
        "mixed": lambda z: (1 - alpha) * F.cross_entropy(z, y) + alpha * kl(target.detach(), z).sum(),
    }
    x_adv = plain_attack(robust, x, gaussian_start(x, 3, step), losses[attack_loss])
    output = robust(x_adv)
    factor = alpha * temperature**2
    robust_loss = (1 - alpha) * F.cross_entropy(output, y) + factor * kl(target.detach(), output, temperature).mean()
    natural_loss = (1 - alpha) * F.cross_entropy(target, y) + factor * kl(output.detach(), target, temperature).mean()
    plain_update(robust, robust_loss, buffers["robust"])
    plain_update(natural, natural_loss, buffers["natural"])
    return x_adv, {"robust": robust_loss, "natural": natural_loss}


def madry(models, buffers, x, y, step):
    robust = models["robust"]
    x_adv = plain_attack(robust, x, uniform_start(x, 3, step), lambda z: F.cross_entropy(z, y))
    loss = F.cross_entropy(robust(x_adv), y)
    plain_update(robust, loss, buffers["robust"])
    return x_adv, {"robust": loss}


def trades(models, buffers, x, y, step, beta=6.0):
    robust = models["robust"]
    with torch.no_grad():
        target = robust.eval()(x)
    x_adv = plain_attack(robust, x, gaussian_start(x, 3, step), lambda z: kl(target, z).sum())
    clean, output = robust(x), robust(x_adv)
    loss = F.cross_entropy(clean, y) + beta * kl(clean, output).mean()
    plain_update(robust, loss, buffers["robust"])
    return x_adv, {"robust": loss}


def natural(models, buffers, x, y, step):
    loss = F.cross_entropy(models["natural"](x), y)
    plain_update(models["natural"], loss, buffers["natural"])
    return None, {"natural": loss}


METHODS = {
    "act": ({"name": "act"}, {}, act),
    "act_ce": ({"name": "act"}, {"loss": "ce"}, lambda *a: act(*a, attack_loss="ce")),
    "act_mixed": ({"name": "act"}, {"loss": "mixed"}, lambda *a: act(*a, attack_loss="mixed")),
    "madry": ({"name": "madry"}, {}, madry),
    "trades": ({"name": "trades"}, {}, trades),
    "natural": ({"name": "natural"}, {}, natural),
}


SPEED_UPS = {
    "none": ({"view": False}, {"channels_last": False}),
    "all exact": ({"view": True, "fold_batchnorm": True}, {"channels_last": True}),
}


@pytest.mark.parametrize("speed_ups", SPEED_UPS)
@pytest.mark.parametrize("method", METHODS)
def test_training_steps_equal_the_formulas(method, speed_ups, tmp_path, monkeypatch):
    objective, attack, plain_step = METHODS[method]
    fast_attack, fast_train = SPEED_UPS[speed_ups]
    trainer = make_trainer(tmp_path / "run", objective, {**attack, **fast_attack}, fast_train)
    seen = []
    call = Attack.__call__
    monkeypatch.setattr(Attack, "__call__", lambda *arguments: seen.append(call(*arguments).clone()) or seen[-1])
    models = {name: copy.deepcopy(learner.module) for name, learner in trainer.learners.items()}
    buffers = {name: {} for name in models}
    for step, (images, labels) in zip(range(3), trainer.data.train.epoch(0), strict=False):
        x = images.double()
        losses = trainer.train_step(x, labels)
        x_adv, expected = plain_step(models, buffers, x, labels, step)
        if x_adv is not None:
            assert torch.equal(seen[-1], x_adv)
        for name, loss in expected.items():
            assert abs(losses[name].item() - loss.item()) < 1e-10
        trainer.step += 1
    for name, model in models.items():
        ours = trainer.learners[name].module.state_dict()
        assert len(ours) > 10
        for key, value in model.state_dict().items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
