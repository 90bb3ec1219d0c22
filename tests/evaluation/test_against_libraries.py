"""The same attack as other people's libraries make it: torchattacks, foolbox, pyautoattack."""

import copy
import json
import re
import signal
from pathlib import Path

import pytest
import torch

from act_engine import evaluate as door
from act_engine.attack import AttackView, pgd
from act_engine.config import from_mapping
from act_engine.evaluation import PGDAttack
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.autoattack import AutoAttack
from act_engine.evaluation.premises import WatchedView
from act_engine.training.trainer import Trainer
from act_kernels import attack_grad

pyautoattack = pytest.importorskip("pyautoattack", reason="needs the extra act-engine[evaluation]")

EPS, STEPS, RESTARTS = 0.2, 40, 3
STEP_SIZE = 2.5 * EPS / STEPS


def ce_grad(labels):
    return lambda logits: attack_grad(logits, logits, labels, kl_weight=0.0, ce_weight=1.0)


class Watched(torch.nn.Module):
    """A model that notes which images of a batch it has got wrong in any of its passes."""

    def __init__(self, model, labels):
        super().__init__()
        self.model, self.labels = model, labels
        self.right = torch.ones_like(labels, dtype=torch.bool)

    def forward(self, images):
        logits = self.model(images)
        self.right &= logits.argmax(1) == self.labels
        return logits


class StartsOf:
    """In an evaluation's `Place`: each restart begins where a library's does."""

    def __init__(self, starts):
        self.starts = starts

    def start(self, x, eps, norm, stream):
        return self.starts[stream]


def torchattacks_from(watched, x, y, seed):
    """Where torchattacks' PGD starts with this seed, and its last iterate."""
    import torchattacks

    torch.manual_seed(seed)
    start = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    torch.manual_seed(seed)
    return start, torchattacks.PGD(watched, eps=EPS, alpha=STEP_SIZE, steps=STEPS)(x, y)


def foolbox_from(watched, x, y, seed):
    """The same of foolbox."""
    import foolbox

    starts = []

    class PGD(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0, epsilon):
            starts.append(super().get_random_start(x0, epsilon))
            return starts[-1]

    torch.manual_seed(seed)
    model = foolbox.PyTorchModel(watched, bounds=(0, 1), device="cpu")
    attack = PGD(abs_stepsize=STEP_SIZE, steps=STEPS, random_start=True)
    last = attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=EPS)
    return starts[0].raw.clamp(0, 1), last


@pytest.mark.parametrize("library", [torchattacks_from, foolbox_from])
def test_pgd_finds_what_a_library_finds_from_the_same_starts(robust_run, images, library):
    """float64, every iterate counted on both sides: the same images withstand after each restart, and the last iterates
    are the same to the rounding of the projection (three roundings of numbers below 1 a step, without accumulation)."""
    model = copy.deepcopy(robust_run.models["robust"]).double()
    x, y = images[0].double(), images[1]
    attack, view = PGDAttack(EPS, STEP_SIZE, STEPS, RESTARTS), AttackView(model)
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    watched = Watched(model, y).eval()
    watched.right = clean.clone()
    starts, expected = [], []
    for restart in range(RESTARTS):
        start, last = library(watched, x, y, seed=restart)
        watched(last)
        starts.append(start)
        expected.append(watched.right.clone())
        torch.testing.assert_close(attack.perturb(view, x, y, start.clone()), last, rtol=0, atol=1e-12)
    found = attack(view, x, y, clean, StartsOf(starts))
    assert torch.equal(found, torch.stack(expected))
    assert 0 < found[-1].sum() < clean.sum()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_adversarial_images_as_torchattacks(robust_run, images, norm):
    """float64, the same settings and start: they differ by the rounding of the projection alone."""
    import torchattacks

    model = copy.deepcopy(robust_run.models["robust"]).double()
    x, y = images[0].double(), images[1]
    eps, step_size = (EPS, 0.04) if norm == "linf" else (1.0, 0.25)
    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    settings = {"eps": eps, "alpha": step_size, "steps": 10}
    if norm == "l2":
        settings["eps_for_division"] = 1e-30  # theirs, 1e-10, shortens the steps of small gradients
    expected = kind(model, **settings, random_start=False)(x, y)
    view = AttackView(model)
    ours = pgd(view, x, x.clone(), ce_grad(y), steps=10, step_size=step_size, eps=eps, norm=norm)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert (ours - x).abs().max() > 0.1
    if norm == "linf":
        torch.manual_seed(5)
        start = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        torch.manual_seed(5)
        expected = kind(model, **settings)(x, y)
        ours = pgd(view, x, start, ce_grad(y), steps=10, step_size=step_size, eps=eps)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def test_the_readmes_three_lines_load_a_plain_module(tiny_config, images, tmp_path, monkeypatch):
    settings = {**tiny_config, "train": {"max_steps": 2, "device": "cpu"}, "evaluate": {"attack": "none"}}
    trainer = Trainer(from_mapping(settings), tmp_path / "runs" / "digits")
    assert trainer.run() == 0
    text = PAGE.read_text("utf-8")
    (block,) = re.findall(r"<!-- three lines -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line]) == 3
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    model = names["model"]
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    trained = trainer.learners["robust"].module.eval()
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(images[0]), trained(images[0]))  # whose weights have another memory layout


class Shortened(pyautoattack.AutoAttack):
    """The library's own, all of its attacks, each with a hundredth of its work."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 5
        self.apgd.n_iter_orig = self.apgd_targeted.n_iter_orig = 5
        self.apgd.eot_iter = min(2, self.apgd.eot_iter)
        self.square.n_queries = 50


@pytest.fixture
def shortened(monkeypatch):
    monkeypatch.setattr(pyautoattack, "AutoAttack", Shortened)


@pytest.mark.parametrize(("version", "norm"), [("standard", "linf"), ("rand", "l2")])
def test_autoattack_through_us_is_the_library(robust_run, images, shortened, version, norm):
    model, (x, y) = robust_run.models["robust"], (images[0][:40], images[1][:40])
    eps = 0.12 if norm == "linf" else 0.5
    state = torch.get_rng_state()
    ours = AutoAttack(model, eps, norm, version)
    found = ours(WatchedView(AttackView(model)), x, y, torch.ones(40, dtype=torch.bool), Place(0, 40, 7))[-1]
    assert torch.equal(torch.get_rng_state(), state)
    direct = Shortened(model, eps=eps, norm={"linf": "Linf", "l2": "L2"}[norm], version=version, seed=7)
    _, predicted = direct.run_standard_evaluation(x, y, batch_size=40)
    assert torch.equal(found, predicted == y)
    assert 0 < found.sum() < (model(x).argmax(1) == y).sum()


@pytest.mark.usefixtures("shortened", "seeded")
def test_autoattack_takes_colour_images_as_the_loaders_give_them():
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(8, 5)).eval().requires_grad_(False)
    x = torch.randint(256, (12, 8, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    y = model(x / 255).argmax(1)
    attack, everyone = AutoAttack(model, 2 / 255), torch.ones(12, dtype=torch.bool)
    found = attack(WatchedView(AttackView(model)), x, y, everyone, Place(0, 12, 0))
    assert torch.equal(found, attack(WatchedView(AttackView(model)), x.contiguous(), y, everyone, Place(0, 12, 0)))


def test_an_interrupted_autoattack_goes_on(robust_folder, shortened, monkeypatch, capsys):
    words = [str(robust_folder), "--attack", "autoattack", "--images", "25", "--batch-size", "10", "--steps", "5"]
    words += ["--check_masking", "false", "--restarts", "1", "--eps", "0.2"]
    chunks = []
    run = AutoAttack._run

    def interrupted(self, view, x, y, seed):
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(len(x))
        return run(self, view, x, y, seed)

    monkeypatch.setattr(AutoAttack, "_run", interrupted)
    assert door.main(words) == 128 + signal.SIGINT
    monkeypatch.setattr(AutoAttack, "_run", lambda *a: chunks.append(len(a[2])) or run(*a))
    assert door.main(words) == 0
    assert chunks == [10, 10, 5]
    evaluation = json.loads((robust_folder / "evaluation.json").read_text())
    assert door.main(words) == 0
    assert chunks == [10, 10, 5]
    assert json.loads((robust_folder / "evaluation.json").read_text()) == evaluation
    robust = evaluation["models"]["robust"]
    files = [json.loads(file.read_text()) for file in (robust_folder / "measured").glob("robust-robust-*")]
    assert robust["robust_accuracy"] == sum(file["robust"][0].count("1") for file in files) / 25
    assert robust["robust_accuracy"] <= robust["clean_accuracy"]
    assert evaluation["attack"]["name"] == "autoattack"
    assert "AutoAttack standard" in capsys.readouterr().out
    assert door.main([*words, "--seed", "9"]) == 0
    assert len(chunks) == 6, "another seed is another attack"


def test_autoattack_that_is_not_installed_is_one_line(robust_folder, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    with pytest.raises(SystemExit) as exit_:
        door.main([str(robust_folder), "--attack", "autoattack"])
    assert exit_.value.code == 2
    assert "act-engine[evaluation]" in capsys.readouterr().err
