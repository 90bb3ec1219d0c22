"""Steps of published recipes against transcriptions in plain PyTorch, in float64, to 1e-10."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from test_transcription import EPS, STEP_SIZE, kl, noise, smooth_ce

from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.training.build import make_step
from act_engine.training.seeds import stream
from act_engine.training.trainer import Trainer

STEPS_AN_EPOCH = 40  # of batch 32 in digits


def make_trainer(folder, settings):
    trainer = Trainer(from_mapping(settings), folder)
    for learner in trainer.learners.values():
        learner.module.double()
        learner._average = {name: value.double() for name, value in learner._average.items()}
    assert len(trainer.data.train) == STEPS_AN_EPOCH
    parts = (trainer.config, trainer.objective, trainer.learners, {}, trainer.world)
    trainer.train_step = make_step(*parts, steps_per_epoch=STEPS_AN_EPOCH)  # its view takes the model as it is now
    return trainer


def recorded(monkeypatch):
    seen, call = [], Attack.__call__
    monkeypatch.setattr(Attack, "__call__", lambda *arguments: seen.append(call(*arguments).clone()) or seen[-1])
    return seen


def assert_close(ours, theirs, name):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=lambda text: f"{name}: {text}")


def test_three_steps_of_wang_2023(tmp_path, monkeypatch):
    """TRADES on the model in train mode, with the optimizer, average and BatchNorm of Wang et al. (arXiv 2302.04638).

    Of each batch int(0.7 · batch) images are extra ones. The average begins in the second step, so that both of its
    rules are met.
    """
    random, more = np.random.default_rng(0), tmp_path / "extra.npz"
    np.savez(more, image=random.integers(1, 256, (60, 8, 8, 1), np.uint8), label=random.integers(0, 10, 60))
    epochs, decay, start = 80, 5e-4, 2
    trainer = make_trainer(
        tmp_path / "run",
        {
            "objective": {"name": "trades", "beta": 5, "label_smoothing": 0.1},
            "attack": {"eps": EPS, "step_size": STEP_SIZE, "steps": 4, "start": "uniform", "mode": "train"},
            "data": {"name": "digits", "batch_size": 32, "extra": [str(more)], "extra_share": 0.7},
            "model": {"name": "robustbench_wrn10_1"},
            "optim": {
                **{"lr": 0.2, "cycle_momentum": True, "nesterov": True, "weight_decay": decay, "decayed": "no_norms"},
                **{"schedule": "onecycle_cosine", "peak": 0.025, "every": "epoch"},
            },
            "train": {
                **{"epochs": epochs, "seed": 3, "device": "cpu"},
                **{"ema": 0.995, "ema_start": start / (epochs * STEPS_AN_EPOCH), "ema_buffers": "copied"},
                **{"batchnorm_momentum": 0.01, "batchnorm_first": 1.0},
            },
        },
    )
    learner, seen = trainer.learners["robust"], recorded(monkeypatch)
    model = copy.deepcopy(learner.module)
    average = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    rate, momenta = 0.2 / 25, {}  # of the first epoch, in which OneCycleLR's momentum is 0.95
    for n, (images, labels) in zip(range(1, 4), trainer.data.train.epoch(0), strict=False):
        x = images.double()
        assert (x.flatten(1).amin(1) > 0).sum() == int(0.7 * 32)  # digits have black pixels, the extra images none
        loss = trainer.train_step(x, labels)["robust"]

        for norm in norms:
            norm.momentum = 1.0 if n == 1 else 0.01
            norm.track_running_stats = False
        with torch.no_grad():
            target = model(x)
        x_adv = (x + EPS * noise(x, 3, n - 1, gaussian=False)).clamp(0, 1)
        for _ in range(4):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(kl(target, model(x_adv)).sum(), x_adv)
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
        for norm in norms:
            norm.track_running_stats = True
        clean, output = model(x), model(x_adv)
        expected = smooth_ce(clean, labels, 0.1) + 5 * kl(clean, output).mean()
        model.zero_grad()
        expected.backward()
        kept = min(0.995, (1 + n - start) / (10 + n - start)) if n >= start else 0.0
        with torch.no_grad():
            followers = dict(average.named_parameters())
            for name, weight in model.named_parameters():
                gradient = weight.grad + (0.0 if "batchnorm" in name else decay) * weight
                momenta[name] = 0.95 * momenta[name] + gradient if name in momenta else gradient.clone()
                weight -= rate * (gradient + 0.95 * momenta[name])
                followers[name].mul_(kept).add_(weight, alpha=1 - kept)
            for value, of in zip(average.buffers(), model.buffers(), strict=True):
                value.copy_(of)

        assert_close(seen[-1], x_adv, f"x_adv of step {n}")
        assert_close(loss, expected.detach(), f"loss of step {n}")
        tensors, _ = learner.state_dict()
        for kind, of in (("model", model), ("ema", average)):
            for name, value in of.state_dict().items():
                if value.is_floating_point():
                    assert_close(tensors[f"{kind}.{name}"], value, f"{kind}.{name} after step {n}")
    assert not torch.equal(tensors["ema.logits.weight"], tensors["model.logits.weight"])


def test_steps_of_n_fgsm_in_a_warm_up(tmp_path, monkeypatch):
    """De Jorge et al. (arXiv 2202.01181): noise from 2 eps, one step of eps, no projection; here eps grows at first."""
    trainer = make_trainer(
        tmp_path / "run",
        {
            "objective": {"name": "madry"},
            "attack": {
                **{"eps": EPS, "start": "uniform", "start_eps": 2 * EPS, "steps": 1, "step_size": EPS},
                **{"project": False, "warmup_epochs": 0.05},
            },
            "data": {"name": "digits", "batch_size": 32},
            "train": {"epochs": 1, "seed": 3, "device": "cpu"},
            "optim": {"schedule": "constant"},
        },
    )
    seen, warmup = recorded(monkeypatch), 0.05 * STEPS_AN_EPOCH  # 2 steps
    for step, (images, labels) in zip(range(3), trainer.data.train.epoch(0), strict=False):
        x, model = images.double(), copy.deepcopy(trainer.learners["robust"].module).eval()
        trainer.train_step(x, labels)
        eps = EPS * min(1.0, (step + 1) / warmup)
        start = (x + 2 * eps * noise(x, 3, step, gaussian=False)).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), labels), start)
        assert_close(seen[-1], (start.detach() + eps * gradient.sign()).clamp(0, 1), f"x_adv of step {step}")
        assert (seen[-1] - x).abs().max() > eps


def test_three_steps_of_ares_with_mixed_labels(tmp_path, monkeypatch):
    """Adversarial training with MixUp or CutMix as ARES has it (Liu et al., arXiv 2302.14301): AdamW, warm-up, average.

    Loss and attack take the mixed and smoothed labels; in these three steps both kinds of mixing come.
    """
    decay, smoothing, betas, seed = 0.05, 0.1, (0.9, 0.999), 2
    trainer = make_trainer(
        tmp_path / "run",
        {
            "objective": {"name": "madry", "label_smoothing": smoothing},
            "attack": {"eps": EPS, "step_size": STEP_SIZE, "steps": 3, "smooth_labels": True},
            "data": {"name": "digits", "batch_size": 32},
            "optim": {
                **{"name": "adamw", "lr": 5e-4, "weight_decay": decay, "decayed": "matrices"},
                **{"schedule": "cosine", "warmup_epochs": 5, "warmup_lr": 1e-6, "final_lr": 1e-5},
            },
            "train": {
                **{"epochs": 300, "seed": seed, "device": "cpu", "ema": 0.9998},
                **{"mixup": 0.8, "cutmix": 1.0},
            },
        },
    )
    learner, seen = trainer.learners["robust"], recorded(monkeypatch)
    model = copy.deepcopy(learner.module)
    average = {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}
    first, second, kinds = {}, {}, set()
    for n, (images, labels) in zip(range(3), trainer.data.train.epoch(0), strict=False):
        x = images.double()
        loss = trainer.train_step(x, labels)["robust"]

        random = np.random.default_rng(stream(seed, n, "mixing"))
        _, which = random.random(2)
        mixed, (height, width) = x.clone(), x.shape[2:]
        if which < 0.5:
            side = (1 - random.beta(1.0, 1.0)) ** 0.5
            y_at, x_at = random.integers(0, (height, width))
            half_y, half_x = int(height * side) // 2, int(width * side) // 2
            rows = range(max(y_at - half_y, 0), min(y_at + half_y, height))
            columns = range(max(x_at - half_x, 0), min(x_at + half_x, width))
            for row in rows:
                for column in columns:
                    mixed[:, :, row, column] = x.flip(0)[:, :, row, column]
            share = 1 - len(rows) * len(columns) / (height * width)
            kinds.add("cutmix")
        else:
            share = random.beta(0.8, 0.8)
            mixed = share * x + (1 - share) * x.flip(0)
            kinds.add("mixup")
        on, off = 1 - smoothing + smoothing / 10, smoothing / 10
        one, other = (torch.full((32, 10), off, dtype=torch.float64) for _ in range(2))
        one[range(32), labels], other[range(32), labels.flip(0)] = on, on
        target = share * one + (1 - share) * other

        def soft_ce(logits, target=target):
            return -(target * logits.log_softmax(1)).sum(1)

        model.eval()
        x_adv = (mixed + EPS * noise(mixed, seed, n, gaussian=False)).clamp(0, 1)
        for _ in range(3):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(soft_ce(model(x_adv)).sum(), x_adv)
            x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, mixed - EPS), mixed + EPS).clamp(0, 1)
        model.train().zero_grad()
        expected = soft_ce(model(x_adv)).mean()
        expected.backward()
        rate = 1e-6 + (5e-4 - 1e-6) * n / (5 * STEPS_AN_EPOCH)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1:
                    weight.mul_(1 - rate * decay)
                first[name] = betas[0] * first.get(name, 0.0) + (1 - betas[0]) * weight.grad
                second[name] = betas[1] * second.get(name, 0.0) + (1 - betas[1]) * weight.grad**2
                size = (second[name] / (1 - betas[1] ** (n + 1))).sqrt() + 1e-8
                weight -= rate * first[name] / (1 - betas[0] ** (n + 1)) / size
            kept = (1 + n) / (10 + n)
            for name in average:
                average[name] = kept * average[name] + (1 - kept) * model.state_dict()[name]

        assert_close(seen[-1], x_adv, f"x_adv of step {n}")
        assert_close(loss, expected.detach(), f"loss of step {n}")
        tensors, _ = learner.state_dict()
        for kind, of in (("model", model.state_dict()), ("ema", average)):
            for name, value in of.items():
                if value.is_floating_point():
                    assert_close(tensors[f"{kind}.{name}"], value, f"{kind}.{name} after step {n}")
    assert kinds == {"mixup", "cutmix"}
