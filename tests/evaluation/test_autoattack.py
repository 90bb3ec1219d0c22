"""What stands around the library: few classes, its attacks by name, its warnings."""

import json
import logging
import math

import pytest
import torch
from torch import nn

from act_engine.attack import AttackView
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data.arrays import ArrayLoader
from act_engine.evaluation import check_evaluation, evaluate, evaluate_models, format_table
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.autoattack import AutoAttack
from act_engine.evaluation.premises import Record, WatchedView
from act_engine.parallel import World

pyautoattack = pytest.importorskip("pyautoattack", reason="needs the extra act-engine[evaluation]")

WORLD = World(0, 1, torch.device("cpu"), 60.0)


class Shortened(pyautoattack.AutoAttack):
    """The library's own, each attack with few iterations, and a list of those that ran."""

    ran: list

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 20
        self.apgd.n_iter_orig = self.apgd_targeted.n_iter_orig = 20
        self.square.n_queries = 30
        parts = {"apgd": self.apgd, "apgd-t": self.apgd_targeted, "fab": self.fab, "sq": self.square}
        for name, attack in parts.items():
            attack.perturb = self._noted(name, attack)

    def _noted(self, name, attack):
        perturb = attack.perturb

        def noted(*arguments):
            self.ran.append((name, getattr(attack, "n_target_classes", None), attack.norm))
            return perturb(*arguments)

        return noted


@pytest.fixture(autouse=True)
def shortened(monkeypatch):
    """The attacks that ran: names, targets, norms."""
    Shortened.ran = []
    monkeypatch.setattr(pyautoattack, "AutoAttack", Shortened)
    return Shortened.ran


def linear(classes, seed=0):
    """Of 36 numbers, with the exact distance of each image to its next class known: the margin over the dual norm."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes, bias=False)).eval()
    x = 0.4 + 0.2 * torch.rand(12, 1, 6, 6)
    with torch.no_grad():
        z = model(x)
        y = z.argmax(1)
        rows = model[1].weight
        others = torch.arange(classes) != y[:, None]
        gap = z.gather(1, y[:, None]) - z
        normal = rows[y][:, None] - rows
        distance = {
            "linf": (gap / normal.abs().sum(2))[others].view(12, -1).amin(1),
            "l2": (gap / normal.norm(dim=2))[others].view(12, -1).amin(1),
        }
    return model, x, y, distance


@pytest.mark.parametrize("classes", [2, 3, 4, 12])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_few_classes_have_as_many_targets(classes, norm, shortened):
    """A linear model falls where its exact distance is within eps, and the targeted attacks find that alone too."""
    model, x, y, distance = linear(classes)
    eps = distance[norm].median().item() * 1.001
    assert (x - eps >= 0).all() or norm == "l2"
    check_evaluation(EvaluateConfig(attack="autoattack", eps=eps, norm=norm), classes)
    for attacks in (None, ("apgd-t",), ("fab-t",)):
        found = evaluate(model, [(x, y)], attack=AutoAttack(model, eps, norm, attacks=attacks), warn=lambda text: None)
        clear = (distance[norm] - eps).abs() > 0.05 * eps  # few iterations come so near
        assert found.robust == pytest.approx((distance[norm] > eps).sum().item(), abs=(~clear).sum().item())
        assert not [text for text in found.warnings if "possible" in text], "it is taken care of"
    targets = {targets for name, targets, _ in shortened if name in ("apgd-t", "fab")}
    assert targets == {min(9, classes - 1)}


@pytest.mark.parametrize("version", ["plus", "rand"])
def test_two_classes_in_the_other_versions(version):
    model, x, y, distance = linear(2)
    eps = distance["linf"].median().item() * 1.001
    found = evaluate(model, [(x, y)], attack=AutoAttack(model, eps, version=version), warn=lambda text: None)
    assert 0 < found.robust < 12


@pytest.mark.parametrize(
    ("name", "ran"), [("apgd-ce", "apgd"), ("apgd-t", "apgd-t"), ("fab-t", "fab"), ("fab", "fab"), ("square", "sq")]
)
def test_one_of_its_attacks_by_name(name, ran, shortened):
    model, x, y, distance = linear(4)
    loader = ArrayLoader(x.permute(0, 2, 3, 1).numpy(), y.numpy(), 12, shuffle=False, seed=0, rank=0, world_size=1)
    eps = distance["linf"].median().item()
    settings = EvaluateConfig(attack=name, steps=5, restarts=1, check_masking=False, eps=eps)
    evaluation = evaluate_models({"m": model}, loader, AttackConfig(), settings, seed=0, world=WORLD)
    assert {found for found, *_ in shortened} == {ran}
    assert evaluation["attack"]["name"] == name
    assert f"robust: {name.upper().replace('SQUARE', 'Square')} standard (linf, eps " in format_table(evaluation)
    assert 0 < evaluation["models"]["m"]["robust_accuracy"] < 1 or name == "square"


def test_another_release_of_the_library_is_another_question(shortened, tmp_path, monkeypatch):
    model, x, y, distance = linear(4)
    loader = ArrayLoader(x.permute(0, 2, 3, 1).numpy(), y.numpy(), 12, shuffle=False, seed=0, rank=0, world_size=1)
    eps = distance["linf"].median().item()
    settings = EvaluateConfig(attack="apgd-ce", steps=1, restarts=1, check_masking=False, eps=eps)

    def ran():
        shortened.clear()
        arguments = ({"m": model}, loader, AttackConfig(), settings)
        evaluate_models(*arguments, seed=0, world=WORLD, state=tmp_path / "measured")
        return len(shortened)

    assert [ran(), ran()] == [1, 0]
    monkeypatch.setattr("act_engine.evaluation.autoattack.version", lambda name: "99.0")
    assert [ran(), ran()] == [1, 0]


def test_l1_by_the_library(shortened):
    """A linear model moves along its largest difference of weights; the box is far away."""
    model, x, y, _ = linear(4)
    eps = 0.3
    found = evaluate(model, [(x, y)], attack=AutoAttack(model, eps, "l1"), warn=lambda text: None)
    assert {norm for *_, norm in shortened} == {"L1"}
    assert {targets for name, targets, _ in shortened if name == "apgd-t"} == {3}
    assert found.robust < 12


def test_l1_stands_alone_in_the_json():
    model, x, y, _ = linear(4)
    loader = ArrayLoader(x.permute(0, 2, 3, 1).numpy(), y.numpy(), 12, shuffle=False, seed=0, rank=0, world_size=1)
    settings = EvaluateConfig(attack="autoattack", norm="l1", eps=0.3)
    evaluation = evaluate_models({"m": model}, loader, AttackConfig(), settings, seed=0, world=WORLD)
    assert {name for name in evaluation["models"]["m"] if name.endswith("accuracy")} == {
        "clean_accuracy",
        "robust_accuracy",
    }
    assert "robust: AutoAttack standard (l1, eps 0.3)" in format_table(evaluation)
    with pytest.raises(ValueError, match=r"evaluate.norm: got 'l1'; allowed: linf, l2 with attack pgd"):
        EvaluateConfig(norm="l1", eps=1.0)


@pytest.mark.parametrize(
    "settings", [{"norm": "linfty"}, {"version": "fast"}, {"attacks": ("pgd",)}, {"attacks": ("apgd-ce", "cw")}]
)
def test_what_the_library_does_not_know(settings):
    with pytest.raises(ValueError, match=r"got '(linfty|fast|pgd|cw)'; allowed: "):
        AutoAttack(linear(4)[0], 0.1, **settings)


class Random(nn.Module):
    """Noise on the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        z = self.model(images)
        return z + 0.01 * torch.randn_like(z)


@pytest.mark.parametrize("silence", [None, "level", "disable", "disabled"])
def test_warnings_once_each_whatever_the_loggers_level(silence, monkeypatch, capfd):
    logger = logging.getLogger("auto-attack")
    if silence == "level":
        monkeypatch.setattr(logger, "level", math.inf)
    elif silence == "disabled":
        monkeypatch.setattr(logger, "disabled", True)
    elif silence == "disable":
        logging.disable(logging.CRITICAL)
    try:
        model, x, y, _ = linear(4)
        attack = AutoAttack(Random(model), 0.05)
        found = evaluate(Random(model), [(x, y), (x, y)], attack=attack, seed=1, warn=lambda text: None)
    finally:
        logging.disable(logging.NOTSET)
    texts = [text for text in found.warnings if text.startswith("autoattack: ")]
    assert len(texts) == len(set(texts)) >= 1
    (randomised,) = [text for text in texts if "randomized" in text]
    assert 'version="rand"' in randomised
    assert capfd.readouterr() == ("", ""), "nor is anything printed"


def test_warnings_of_every_process_and_chunk_are_one(monkeypatch):
    """Two chunks warn of other numbers; two ranks of other things."""
    model, x, y, _ = linear(4)

    def run(self, view, x, y, seed):
        view.record.warnings.append(f"autoattack: there are {len(x)} points with zero gradient!")
        return torch.ones_like(y, dtype=torch.bool)

    monkeypatch.setattr(AutoAttack, "_run", run)
    loader = ArrayLoader(x.permute(0, 2, 3, 1).numpy(), y.numpy(), 7, shuffle=False, seed=0, rank=0, world_size=1)
    settings = EvaluateConfig(attack="autoattack", steps=1, restarts=1, check_masking=False)

    class Two(World):
        """Another rank beside this one, which has seen something else."""

        def gather(self, values):
            said = ["it seems to be a randomized defense!", "there are 5 points with zero gradient!"]
            text = json.dumps([f"autoattack: {words}" for words in said]).encode()
            if values.dtype == torch.uint8:
                return torch.stack([values, torch.tensor([*text.ljust(len(values))], dtype=torch.uint8)])
            return torch.stack([values, torch.tensor([len(text)])])

    world = Two(0, 1, torch.device("cpu"), 60.0)
    evaluation = evaluate_models({"m": model}, loader, AttackConfig(), settings, seed=0, world=world)
    texts = [text for text in evaluation["models"]["m"]["warnings"] if text.startswith("autoattack: ")]
    assert texts == [
        "autoattack: there are 7 points with zero gradient!",
        "autoattack: it seems to be a randomized defense!",
    ]


def test_a_gradient_of_nan_is_no_success():
    """The library's l2 steps make images of NaN of it, which count as class 0: all other labels would have fallen."""
    model, x, y, _ = linear(4)
    x[:, :, 0] = 0

    class Gamma(nn.Module):
        def forward(self, images):
            return model(torch.where(images > 0, images.clamp_min(1e-3), images**0.45))

    view = WatchedView(AttackView(Gamma()), Record())
    attack = AutoAttack(Gamma(), 1e-4, "l2", attacks=("apgd-ce",))
    with torch.no_grad():
        y = view(x).argmax(1)
    (found,) = attack(view, x, y, torch.ones(12, dtype=torch.bool), Place(0, 12, 0))
    assert int(view.record.broken) > 0
    assert found.all(), "1e-4 is far less than any distance"
