"""What an attack has found on a batch is kept, and read again only where the question is the same."""

import json

import pytest
import torch
from torch import nn

from act_engine import evaluate as door
from act_engine.config import AttackConfig, EvaluateConfig, from_mapping
from act_engine.data.arrays import ArrayLoader
from act_engine.evaluation import PGDAttack, Transfer, evaluate_models
from act_engine.parallel import World
from act_engine.training.trainer import Trainer

WORLD = World(0, 1, torch.device("cpu"), 60.0)


class Normalise(nn.Module):
    """Outside the state dict, as in many wrappers."""

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def forward(self, images):
        return images - self.mean


class Coarse(nn.Module):
    """The same answers for images of 8 bits, and no gradient."""

    def forward(self, images):
        return (images * 255).round() / 255


def network():
    """Its decisions lie among the images, so that a small ball fools some."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
        model[3].bias.sub_(model[:4](torch.rand(500, 16)).mean(0))
    return model


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """A function that measures a model on 20 images in batches of 8: its entry, and on how many images PGD ran."""
    torch.manual_seed(1)
    images = torch.randint(256, (20, 4, 4, 1), dtype=torch.uint8)
    labels = network()(images.permute(0, 3, 1, 2) / 255).argmax(1)
    ran = []
    run = PGDAttack.__call__
    monkeypatch.setattr(PGDAttack, "__call__", lambda self, v, x, *more: ran.append(len(x)) or run(self, v, x, *more))

    def measure(model, data=(images, labels), seed=0, source=None, again=False, **settings):
        ran.clear()
        settings = EvaluateConfig(**{"steps": 3, "restarts": 2, "check_masking": False, "eps": 0.05, **settings})
        loader = ArrayLoader(*(part.numpy() for part in data), 8, shuffle=False, seed=0, rank=0, world_size=1)
        arguments = ({"m": model}, loader, AttackConfig(), settings)
        keep = {"state": tmp_path / "measured", "again": again}
        result = evaluate_models(*arguments, seed=seed, world=WORLD, source=source, **keep)
        return result["models"]["m"], sum(ran)

    measure.images, measure.labels = images, labels
    return measure


def test_the_same_question_is_answered_from_the_file(measure):
    first, ran = measure(network())
    assert ran == 20
    assert 0 < first["robust_accuracy"] < 1
    assert measure(network()) == (first, 0)
    assert measure(network(), again=True) == (first, 20)


def test_another_question_is_measured(measure):
    measure(network())
    other = network()
    other[1].bias.data[0] += 1e-3
    changed = measure.labels.clone()
    changed[9] = (changed[9] + 1) % 4
    images = measure.images.clone()
    images[17, 0, 0, 0] ^= 1
    for change, ran in [
        ({"model": other}, 20),
        ({"model": nn.Sequential(Normalise(0.2), *network())}, 20),
        ({"seed": 5}, 20),
        ({"steps": 4}, 20),
        ({"data": (images, measure.labels)}, 4),
        ({"data": (measure.images, changed)}, 8),
    ]:
        measure(network())
        assert measure(**{"model": network(), **change})[1] == ran, change
        assert measure(**{"model": network(), **change})[1] == 0, change


@pytest.mark.parametrize(("one", "two"), [(Normalise(0.0), Normalise(0.3)), (Normalise(0.0), Coarse())])
def test_the_same_weights_are_not_the_same_model(measure, one, two):
    """A state dict does not say what stands before it; nor do answers on clean images say what the gradient is."""
    models = [nn.Sequential(wrapper, network()) for wrapper in (one, two)]
    alone = [measure(model, again=True)[0] for model in models]
    measure(models[0])
    found, ran = measure(models[1])
    assert (found, ran) == (alone[1], 20)


def test_answers_are_compared_up_to_rounding(measure):
    """In another order of sums, as on another machine, the model is the same one."""
    model = network()
    measure(model)
    split = network()
    halves = split[1].weight.data.clone().split(8, 1)

    class Reordered(nn.Linear):
        def forward(self, x):
            return x[:, 8:] @ halves[1].T + self.bias + x[:, :8] @ halves[0].T

    split[1].__class__ = Reordered
    x = torch.rand(64, 1, 4, 4)
    assert not torch.equal(split(x), model(x))
    assert measure(split)[1] == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"robust"', '"other"'),
        lambda text: text.replace('"robust": [\n    "1', '"robust": [\n    "'),
        lambda text: json.dumps({**json.loads(text), "robust": [[]]}),
        lambda text: json.dumps({**json.loads(text), "answers": [[0.0]]}),
        lambda text: "\x00" * len(text),
    ],
)
def test_a_damaged_file_is_written_anew(measure, tmp_path, damage):
    first, _ = measure(network())
    file = tmp_path / "measured" / "m-robust-8.json"
    whole = file.read_text()
    file.write_text(damage(whole))
    assert measure(network()) == (first, 8 if damage(whole) != whole else 0)
    assert file.read_text() == whole


def test_transferred_attacks_belong_to_their_source(measure, monkeypatch):
    sources = [nn.Sequential(Normalise(mean), network()) for mean in (0.0, 0.5)]
    ran, run = [], Transfer.__call__
    monkeypatch.setattr(Transfer, "__call__", lambda self, v, x, *more: ran.append(len(x)) or run(self, v, x, *more))
    results = []
    for source, images in ((sources[0], 20), (sources[0], 0), (sources[1], 20), (sources[1], 0)):
        results.append(measure(network(), source=source)[0])
        assert sum(ran) == images
        ran.clear()
    assert results[0] == results[1]
    assert results[2] == results[3] == measure(network(), source=sources[1], again=True)[0]


def test_an_interrupted_evaluation_goes_on(measure, tmp_path, monkeypatch):
    """With what was seen on the way, warnings included."""
    images = measure.images.clone()
    images[:, 0] = 0
    data = (images, measure.labels)
    model = nn.Sequential(Gamma(), network())
    expected, _ = measure(model, data)
    assert any(text.startswith("gradients") for text in expected["warnings"])
    for file in (tmp_path / "measured").iterdir():
        file.unlink()
    run = PGDAttack.__call__

    def interrupted(self, view, x, y, survives, place):
        if place.first == 16:
            raise KeyboardInterrupt
        return run(self, view, x, y, survives, place)

    with monkeypatch.context() as patch:
        patch.setattr(PGDAttack, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(model, data)
    assert measure(model, data) == (expected, 4)


class Gamma(nn.Module):
    """An infinite slope at black."""

    def forward(self, images):
        return images**0.45


def test_a_finished_run_started_again_measures_nothing(tiny_config, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    ran = []
    run = PGDAttack.__call__
    monkeypatch.setattr(PGDAttack, "__call__", lambda self, v, x, *more: ran.append(len(x)) or run(self, v, x, *more))
    assert Trainer(from_mapping(tiny_config), folder).run() == 0
    assert sum(ran) == 2 * 500
    before = (folder / "evaluation.json").read_text()
    ran.clear()
    capsys.readouterr()
    assert Trainer(from_mapping(tiny_config), folder).run() == 0
    assert ran == []
    assert "robust %" in capsys.readouterr().out
    assert (folder / "evaluation.json").read_text() == before
    assert door.main([str(folder)]) == 0
    assert ran == []
    assert door.main([str(folder), "--again"]) == 0
    assert sum(ran) == 2 * 500
    assert (folder / "evaluation.json").read_text() == before
    ran.clear()
    other = {**tiny_config, "evaluate": {**tiny_config["evaluate"], "steps": 4}}
    assert Trainer(from_mapping(other), folder).run() == 0
    assert sum(ran) == 2 * 500, "it was asked for another evaluation"
    (folder / "evaluation.json").write_text("{}")
    ran.clear()
    assert Trainer(from_mapping(other), folder).run() == 0
    assert ran == [], "what was measured is in the folder"
    assert json.loads((folder / "evaluation.json").read_text())["attack"]["steps"] == 4
