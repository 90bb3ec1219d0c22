"""One training step of each method against a transcription of its formulas in plain PyTorch, in float64, to 1e-10."""

import contextlib
import copy
import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from act_engine import objectives as package
from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.models import build_model
from act_engine.objectives import number_names, objectives
from act_engine.objectives.registry import BUILT_IN
from act_engine.training.build import make_step
from act_engine.training.seeds import stream
from act_engine.training.trainer import Trainer
from act_kernels.reference.random_start import noise as specified_noise

EPS, STEP_SIZE, STEPS, LR, MOMENTUM, DECAY = 0.15, 0.0375, 4, 0.1, 0.9, 5e-4


def make_trainer(folder, objective, attack, train=(), model=()):
    shared = from_mapping(
        {
            "attack": {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS},
            "data": {"name": "digits", "batch_size": 32},
            "optim": {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": "constant"},
            "train": {"epochs": 1, "seed": 3, "device": "cpu"},
        }
    )
    own = {"objective": objective, "attack": attack, "train": dict(train), "model": dict(model)}
    config = from_mapping(own, shared)
    trainer = Trainer(config, folder)
    for learner in trainer.learners.values():
        learner.module.double()
    frozen = {name: module.double() for name, module in trainer.frozen.items()}
    steps = len(trainer.data.train)
    # Its views copy the models as they are now.
    trainer.train_step = make_step(
        trainer.config, trainer.objective, trainer.learners, frozen, trainer.world, steps_per_epoch=steps
    )
    return trainer


def kl(target_logits, logits, temperature=1.0):
    """KL(softmax(target / T) ‖ softmax(logits / T)), summed over classes, one value a sample."""
    target, log_p = F.softmax(target_logits / temperature, 1), F.log_softmax(logits / temperature, 1)
    return (target * (target.log() - log_p)).sum(1)


def noise(x, seed, step, gaussian):
    """A key from the step's stream, and under it what the specification gives to images 0, 1, ..."""
    generator = torch.Generator().manual_seed(stream(seed, step, "attack"))
    key = torch.randint(-(2**63), 2**63 - 1, (1,), generator=generator)
    return specified_noise(key, 0, len(x), x[0].numel(), gaussian).reshape(x.shape).to(x.dtype)


def gaussian_start(x, seed, step):
    return x + 0.001 * noise(x, seed, step, gaussian=True)


def uniform_start(x, seed, step):
    return (x + EPS * noise(x, seed, step, gaussian=False)).clamp(0, 1)


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
    model.zero_grad()
    loss.backward()
    plain_sgd(model, buffers)


def plain_sgd(model, buffers):
    """SGD with momentum and weight decay, as in PyTorch's documentation."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gradient = parameter.grad + DECAY * parameter
            buffers[name] = MOMENTUM * buffers[name] + gradient if name in buffers else gradient
            parameter -= LR * buffers[name]


def smooth_ce(logits, y, smoothing):
    """Cross-entropy to labels of which the share `smoothing` is spread evenly over all classes."""
    target = (1 - smoothing) * F.one_hot(y, logits.shape[1]).to(logits) + smoothing / logits.shape[1]
    return -(target * F.log_softmax(logits, 1)).sum(1).mean()


@contextlib.contextmanager
def perturbed(model, gamma, loss_of):
    """AWP: inside, the weights lie where one ascent step on a proxy's loss, rescaled to each layer's norm, leads."""
    if not gamma:
        yield
        return
    proxy = copy.deepcopy(model)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    optimizer.zero_grad()
    (-loss_of(proxy)).backward(retain_graph=True)  # of what the models have in common
    optimizer.step()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    stepped = dict(proxy.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("weight") and weight.dim() > 1:
                difference = stepped[name] - weight
                weight += gamma * difference * weight.norm() / (difference.norm() + 1e-20)
    yield
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(before[name])


def update_at(models, buffers, name, loss_of, gamma):
    """Update one model by the gradient of ``loss_of(model)``, taken at perturbed weights if gamma is not 0."""
    model = models[name]
    with perturbed(model, gamma, loss_of):
        loss = loss_of(model)
        model.zero_grad()
        loss.backward()
    plain_sgd(model, buffers[name])
    return loss


def act(models, buffers, x, y, step, alpha=0.9, temperature=4.0, attack_loss="kl", smoothing=0.0, gamma=0.0):
    robust, natural = models["robust"], models["natural"]
    target = natural(x)
    losses = {
        "kl": lambda z: kl(target.detach(), z).sum(),
        "ce": lambda z: F.cross_entropy(z, y, reduction="sum"),
        "mixed": lambda z: (1 - alpha) * F.cross_entropy(z, y) + alpha * kl(target.detach(), z).sum(),
    }
    x_adv = plain_attack(robust, x, gaussian_start(x, 3, step), losses[attack_loss])
    factor = alpha * temperature**2
    seen = []

    def robust_loss(model):
        output = model(x_adv)
        seen.append(output.detach())
        ce, divergence = smooth_ce(output, y, smoothing), kl(target.detach(), output, temperature).mean()
        return (1 - alpha) * ce + factor * divergence

    robust_loss = update_at(models, buffers, "robust", robust_loss, gamma)
    ce, divergence = smooth_ce(target, y, smoothing), kl(seen[-1], target, temperature).mean()
    natural_loss = (1 - alpha) * ce + factor * divergence
    plain_update(natural, natural_loss, buffers["natural"])
    return x_adv, {"robust": robust_loss, "natural": natural_loss}


def madry(models, buffers, x, y, step, smoothing=0.0, gamma=0.0):
    robust = models["robust"]
    x_adv = plain_attack(robust, x, uniform_start(x, 3, step), lambda z: F.cross_entropy(z, y))
    loss = update_at(models, buffers, "robust", lambda model: smooth_ce(model(x_adv), y, smoothing), gamma)
    return x_adv, {"robust": loss}


def trades(models, buffers, x, y, step, beta=6.0, smoothing=0.0, gamma=0.0):
    robust = models["robust"]
    with torch.no_grad():
        target = robust.eval()(x)
    x_adv = plain_attack(robust, x, gaussian_start(x, 3, step), lambda z: kl(target, z).sum())

    def loss(model):
        clean, output = model(x), model(x_adv)
        return smooth_ce(clean, y, smoothing) + beta * kl(clean, output).mean()

    return x_adv, {"robust": update_at(models, buffers, "robust", loss, gamma)}


def natural(models, buffers, x, y, step, smoothing=0.0, gamma=0.0):
    loss = update_at(models, buffers, "natural", lambda model: smooth_ce(model(x), y, smoothing), gamma)
    return None, {"natural": loss}


def mart(models, buffers, x, y, step, beta=5.0, smoothing=0.0, gamma=0.0):
    x_adv = plain_attack(models["robust"], x, gaussian_start(x, 3, step), lambda z: F.cross_entropy(z, y))
    right = F.one_hot(y, 10).bool()

    def loss(model):
        clean, output = model(x), model(x_adv)
        p, q = F.softmax(clean, 1), F.softmax(output, 1)
        margin = -torch.log(1.0001 - q.masked_fill(right, -1).max(1).values).mean()
        weighted = (kl(clean, output) * (1 - p[right])).mean()
        return smooth_ce(output, y, smoothing) + margin + beta * weighted

    return x_adv, {"robust": update_at(models, buffers, "robust", loss, gamma)}


def lbgat(models, buffers, x, y, step, beta=6.0, smoothing=0.0, gamma=0.0):
    """The sum as published, differentiated as one; what the engine reports is its part with each model's gradient."""
    robust, teacher = models["robust"], models["natural"]
    with torch.no_grad():
        target = robust.eval()(x)
    x_adv = plain_attack(robust, x, gaussian_start(x, 3, step), lambda z: kl(target, z).sum())
    teacher_logits = teacher(x)
    parts = {}

    def loss(model):
        output, clean = model(x_adv), model(x)
        mse, ce = ((output - teacher_logits) ** 2).mean(), smooth_ce(teacher_logits, y, smoothing)
        parts["robust"], parts["natural"] = mse + beta * kl(clean, output).mean(), mse + ce
        return parts["robust"] + ce

    with perturbed(robust, gamma, loss):
        total = loss(robust)
        gradients = torch.autograd.grad(total, [*robust.parameters(), *teacher.parameters()])
    for parameter, gradient in zip([*robust.parameters(), *teacher.parameters()], gradients, strict=True):
        parameter.grad = gradient
    for name in models:
        plain_sgd(models[name], buffers[name])
    return x_adv, parts


def rslad(models, buffers, x, y, step, teacher=None, gamma=0.0):
    with torch.no_grad():
        target = teacher(x)
    x_adv = plain_attack(models["robust"], x, gaussian_start(x, 3, step), lambda z: kl(target, z).sum())

    def loss(model):
        output, clean = model(x_adv), model(x)
        return 5 / 6 * kl(target, output).mean() + 1 / 6 * kl(target, clean).mean()

    return x_adv, {"robust": update_at(models, buffers, "robust", loss, gamma)}


METHODS = {
    "act": ({"name": "act"}, {}, act),
    "act_ce": ({"name": "act"}, {"loss": "ce"}, lambda *a: act(*a, attack_loss="ce")),
    "act_mixed": ({"name": "act"}, {"loss": "mixed"}, lambda *a: act(*a, attack_loss="mixed")),
    "madry": ({"name": "madry"}, {}, madry),
    "trades": ({"name": "trades"}, {}, trades),
    "natural": ({"name": "natural"}, {}, natural),
    "mart": ({"name": "mart"}, {}, mart),
    "mart_beta": ({"name": "mart", "beta": 2.0}, {}, lambda *a: mart(*a, beta=2.0)),
    "lbgat": ({"name": "lbgat"}, {}, lbgat),
    "lbgat_0": ({"name": "lbgat", "beta": 0.0}, {}, lambda *a: lbgat(*a, beta=0.0)),
    "rslad": ({"name": "rslad"}, {}, rslad),
}
PLAIN = {"act": act, "madry": madry, "trades": trades, "natural": natural, "mart": mart, "lbgat": lbgat, "rslad": rslad}


SPEED_UPS = {
    "none": ({"view": False}, {"channels_last": False}),
    "all exact": ({"view": True, "fold_batchnorm": True}, {"channels_last": True, "recompute": "model"}),
}


@pytest.mark.parametrize("speed_ups", SPEED_UPS)
@pytest.mark.parametrize("method", METHODS)
def test_training_steps_equal_the_formulas(method, speed_ups, tmp_path, monkeypatch):
    objective, attack, plain_step = METHODS[method]
    fast_attack, fast_train = SPEED_UPS[speed_ups]
    kind = objectives()[objective["name"]]
    if not kind.attack_losses:
        fast_attack = {}
    model, options = teacher(tmp_path) if method == "rslad" else ({}, {})
    trainer = make_trainer(tmp_path / "run", objective, {**attack, **fast_attack}, fast_train, model)
    assert_steps_equal(trainer, functools.partial(plain_step, **options), monkeypatch)


OURS = [name for name, kind in objectives().items() if kind.__module__.startswith("act_engine.")]
SMOOTHED = [name for name in OURS if "label_smoothing" in number_names(objectives()[name])]


def test_every_objective_has_its_transcription():
    assert {objective["name"] for objective, _, _ in METHODS.values()} == set(OURS) == set(PLAIN)
    modules = {file.stem for file in Path(package.__file__).parent.glob("*.py")} - {"__init__", "base", "registry"}
    assert modules == set(BUILT_IN)


@pytest.mark.parametrize("method", SMOOTHED)
def test_label_smoothing_goes_with_every_objective_that_has_labels(method, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", {"name": method, "label_smoothing": 0.2}, {})
    assert_steps_equal(trainer, functools.partial(PLAIN[method], smoothing=0.2), monkeypatch)


@pytest.mark.parametrize("method", OURS)
def test_weight_perturbation_goes_with_every_objective(method, tmp_path, monkeypatch):
    """With the other switch on as well, where there is one."""
    smoothing = {"label_smoothing": 0.1} if method in SMOOTHED else {}
    model, options = teacher(tmp_path) if method == "rslad" else ({}, {"smoothing": 0.1})
    trainer = make_trainer(tmp_path / "run", {"name": method, "awp_gamma": 0.02, **smoothing}, {}, model=model)
    assert_steps_equal(trainer, functools.partial(PLAIN[method], gamma=0.02, **options), monkeypatch)


def test_weight_perturbation_waits_for_its_epoch(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "run", {"name": "madry", "awp_gamma": 0.02, "awp_start_epoch": 1}, {})
    assert trainer.train_step.perturbation_start == len(trainer.data.train)
    trainer.train_step.perturbation_start = 2

    def plain_step(*arguments):
        return madry(*arguments, gamma=0.0 if arguments[-1] < 2 else 0.02)

    assert_steps_equal(trainer, plain_step, monkeypatch)


def teacher(folder):
    """A frozen model as the run's settings name it, and as a plain step takes it."""
    torch.manual_seed(11)
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    for _ in range(5):
        model(torch.rand(64, 1, 8, 8))  # statistics to fold
    torch.save(model.state_dict(), folder / "teacher.pt")
    return {"teacher_weights": str(folder / "teacher.pt")}, {"teacher": copy.deepcopy(model).double().eval()}


def assert_steps_equal(trainer, plain_step, monkeypatch):
    """Three steps of the trainer and of a transcription: the same adversarial images, losses, weights and buffers."""
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
    for name, model in models.items():
        ours = trainer.learners[name].module.state_dict()
        assert len(ours) > 10
        for key, value in model.state_dict().items():
            torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}")
