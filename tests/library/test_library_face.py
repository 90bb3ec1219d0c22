"""The library's face: models and batches of a user's own, trained, measured, saved and loaded."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import act_engine
from act_engine.config import from_mapping
from act_engine.data import GivenLoader
from act_engine.parallel import connect
from act_engine.training.build import make_data, make_model


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))


def same_weights(one, other):
    """To the bit; logits need not be, for a trained model's weights may lie in another layout than a loaded one's."""
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        torch.equal(value, theirs[name]) for name, value in one.state_dict().items()
    )


@pytest.fixture(scope="module")
def loaders():
    data = act_engine.build_data("digits", batch_size=200)
    images, labels = next(data.train.epoch(0))
    test_images, test_labels = next(data.test.epoch(0))
    train = DataLoader(TensorDataset(images, labels), 64, shuffle=True, drop_last=True)
    return train, DataLoader(TensorDataset(test_images[:100], test_labels[:100]), 30)


def test_importing_the_library_loads_no_torch_and_every_name_is_there():
    code = "import sys, act_engine as a; assert 'torch' not in sys.modules; [getattr(a, n) for n in a.__all__]"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        act_engine.fitt  # noqa: B018


def test_fit_gives_the_weights_of_the_command_to_the_bit(tiny_config, tmp_path):
    """The same settings, initial weights and batches: through a Trainer's run, and through fit on given objects."""
    settings = {**tiny_config, "evaluate": {"attack": "none"}, "train": {**tiny_config["train"], "ema": 0.9}}
    config = from_mapping(settings)
    trainer = act_engine.Trainer(config, tmp_path / "run")
    resolved = trainer.config
    assert trainer.run() == 0
    data = make_data(resolved, connect(torch.device("cpu")))
    models = {name: make_model(resolved, name, data.image_shape) for name in ("robust", "natural")}
    attack, optim, train = tiny_config["attack"], tiny_config["optim"], settings["train"]
    fitted = act_engine.fit(
        models,
        data.train,
        objective="act",
        eps=attack["eps"],
        step_size=attack["step_size"],
        steps=attack["steps"],
        lr=optim["lr"],
        schedule=optim["schedule"],
        epochs=train["epochs"],
        seed=train["seed"],
        settings={"objective": {"robust_alpha": 0.5, "natural_alpha": 0.5}, "train": {"ema": 0.9}},
        progress=False,
    )
    assert fitted.models["robust"] is models["robust"]
    for name, model in fitted.models.items():
        exported = load_file(tmp_path / "run" / f"{name}.safetensors")
        for key, value in model.state_dict().items():
            assert torch.equal(value, exported[key]), f"{name}.{key}"
            assert torch.equal(value, trainer.models[name].state_dict()[key])
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [record["step"] for record in fitted.history] == [5, 10]
    assert fitted.history[-1]["robust_loss"] < fitted.history[0]["robust_loss"]
    assert fitted.history[-1]["lr"] == records[-1]["lr"]


def test_a_model_alone_is_trained_measured_saved_and_loaded(loaders, tmp_path):
    train, test = loaders
    fitted = act_engine.fit(net(), train, objective="trades", eps=0.1, steps=2, epochs=6, lr=0.1, progress=False)
    model = fitted.models["robust"]
    assert not model.training
    report = act_engine.robustness(model, test, eps=0.1, steps=5, restarts=1, check_masking=False, progress=False)
    logits = torch.cat([model(images) for images, _ in test])
    labels = torch.cat([labels for _, labels in test])
    assert report.clean_accuracy == int((logits.argmax(1) == labels).sum()) / 100
    assert report.samples == 100
    assert report.robust_accuracy < report.clean_accuracy
    assert report.clean_interval[0] < report.clean_accuracy < report.clean_interval[1]
    assert json.loads(json.dumps(report.to_dict()))["models"]["model"]["robust_accuracy"] == report.robust_accuracy
    assert "robust %" in str(report)

    act_engine.save_model(model, tmp_path / "weights.safetensors")
    again = net()
    act_engine.load_weights(again, tmp_path / "weights.safetensors")
    assert same_weights(again, model)
    header = {"name": net, "num_classes": 10, "image_shape": (1, 8, 8)}
    act_engine.save_model(model, tmp_path / "model.safetensors", **header)
    whole = act_engine.load_model(tmp_path / "model.safetensors", factory=net)
    assert same_weights(whole, model)


def test_an_objective_of_the_callers_own(loaders):
    class Doubled:
        trains, frozen, attack_start, attack_loss = ("robust",), (), "uniform", "ce"

        def attack_weights(self, loss, batch_size):
            return 0.0, 1.0

        def losses(self, models, attack, images, labels):
            return {"robust": 2 * nn.functional.cross_entropy(models["robust"](attack(images, labels)), labels)}

    fitted = act_engine.fit(net(), loaders[0], objective=Doubled(), eps=0.1, steps=1, epochs=3, progress=False)
    assert fitted.history[-1]["robust_loss"] < fitted.history[0]["robust_loss"]


def test_a_trainer_takes_models_and_data_and_goes_on_where_it_stopped(tiny_config, loaders, tmp_path):
    settings = {**tiny_config, "checkpoint": {"every_steps": 1}, "train": {**tiny_config["train"], "epochs": 3}}

    def trainer(folder, **train):
        config = from_mapping({**settings, "train": {**settings["train"], **train}})
        data = act_engine.given_data(*loaders, seed=1)
        return act_engine.Trainer(config, folder, models={"robust": net(), "natural": net()}, data=data)

    whole = trainer(tmp_path / "whole")
    assert whole.run() == 0
    assert whole.evaluation["samples"] == 100
    assert trainer(tmp_path / "parts", max_steps=4).run() == 0
    parts = trainer(tmp_path / "parts")
    assert parts.step == 4
    assert parts.config.data.batch_size == 64
    assert parts.run() == 0
    for name in ("robust", "natural"):
        for key, value in whole.models[name].state_dict().items():
            assert torch.equal(value, parts.models[name].state_dict()[key]), f"{name}.{key}"


def test_a_given_loader_gives_whole_passes_and_resumes_within_one(loaders):
    loader = GivenLoader(loaders[0], seed=3)
    first = [images for images, _ in loader.epoch(0)]
    assert len(first) == len(loader) == 3
    assert loader.num_samples == 192
    passed = loader.epoch(0)
    next(passed)
    state = loader.state_dict()
    assert torch.equal(next(loader.epoch(0))[0], first[0])
    loader.load_state_dict(state)
    rest = [images for images, _ in loader.epoch(0)]
    assert [torch.equal(a, b) for a, b in zip(rest, first[1:], strict=True)] == [True, True]
    assert not torch.equal(next(loader.epoch(1))[0], first[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: act_engine.fit({"robust": net()}, t, epochs=1), "models: got robust; this objective needs"),
        (lambda t: act_engine.fit(net(), iter(t), objective="madry", epochs=1), "loader: got an iterator"),
        (lambda t: act_engine.fit(net(), [t], objective="madry", epochs=1), "loader: got"),
        (lambda t: act_engine.fit(net(), t, objective="madri", epochs=1), "did you mean 'madry'"),
        (lambda t: act_engine.fit(net(), t, objective="madry", epochs=1, eps=8), "attack.eps: got 8"),
        (lambda t: act_engine.fit(net(), t, objective="madry", epochs=0), "train.epochs: got 0"),
        (lambda t: act_engine.fit(net(), t, objective="madry", epochs=1, steps=0), "attack.steps: got 0"),
        (
            lambda t: act_engine.fit(net(), t, objective="madry", epochs=1, settings={"optim": {"momentun": 0}}),
            "optim.momentum",
        ),
        (lambda t: act_engine.robustness(net(), t, steps=0), "evaluate.steps: got 0"),
        (lambda t: act_engine.robustness(net(), []), "loader: got no batch"),
        (lambda t: act_engine.read_config("digit"), "did you mean 'digits'"),
    ],
)
def test_a_mistake_is_one_line(loaders, call, words):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        call(loaders[0])
    assert words in str(raised.value)


def pair():
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(8)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (lambda x: x * 255, "images: got values from"),
        (lambda x: (x - 0.5) / 0.2, "normalise inside the model"),
        (lambda x: x * torch.nan, "images: got NaN"),
        (lambda x: x.double(), "images: got torch.float64; allowed: torch.float32, as the robust model's weights are"),
        (lambda x: x.half(), "images: got torch.float16"),
        (lambda x: (x * 255).long(), "images: got a tensor of int64"),
        (lambda x: x.expand(-1, 3, -1, -1), "models: got 'robust'; allowed: a model that takes images of [3, 8, 8]"),
    ],
    ids=["0 to 255", "normalised", "NaN", "double", "half", "integers", "channels"],
)
def test_images_that_training_does_not_take_are_refused_before_the_first_step(images, words):
    model, (x, labels) = net(), pair()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        act_engine.fit(model, [(images(x), labels)], objective="madry", epochs=1, steps=1, progress="none")
    assert words in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_uint8_images_are_taken_by_fit_and_by_robustness():
    images, labels = pair()
    batches = [((images * 255).round().to(torch.uint8), labels)]
    model = act_engine.fit(net(), batches, objective="madry", epochs=1, steps=1, progress="none").models["robust"]
    asked = {"eps": 0.1, "steps": 1, "restarts": 1, "check_masking": False, "progress": "none"}
    as_floats = [(batches[0][0] / 255, labels)]
    assert act_engine.robustness(model, batches, **asked) == act_engine.robustness(model, as_floats, **asked)


@pytest.mark.parametrize("eps", [8.001, 128.0])
def test_a_ball_that_holds_every_image_is_refused_in_l2_too(eps):
    """Images of 1×8×8 in [0, 1] lie at most √64 apart."""
    words = rf"eps: got {eps}; allowed: at most 8: images \[1, 8, 8\] in \[0, 1\] lie no further apart in l2.*/255\?"
    with pytest.raises(ValueError, match=f"^attack.{words}$"):
        act_engine.fit(net(), [pair()], objective="madry", epochs=1, steps=1, step_size=0.1, eps=eps, norm="l2")
    with pytest.raises(ValueError, match=f"^{words}$"):
        act_engine.robustness(net(), [pair()], eps=eps, norm="l2", steps=1, restarts=1, progress="none")


def test_the_largest_l2_ball_is_allowed():
    asked = {"eps": 8.0, "norm": "l2", "steps": 1, "progress": "none"}
    act_engine.fit(net(), [pair()], objective="madry", epochs=1, step_size=8.0, **asked)
    act_engine.robustness(net(), [pair()], restarts=1, **asked)


def test_models_that_share_weights_are_refused():
    robust, natural = net(), net()
    natural[0] = robust[0]
    with pytest.raises(ValueError, match=r"^models: got 'robust' and 'natural' that share weights"):
        act_engine.fit({"robust": robust, "natural": natural}, [pair()], epochs=1, steps=1)


def test_a_model_that_gives_probabilities_is_warned_of():
    model = nn.Sequential(net(), nn.Softmax(1))
    with pytest.warns(UserWarning, match=r"^models: got 'robust': its outputs look like probabilities"):
        act_engine.fit(model, [pair()], objective="madry", epochs=1, steps=1, progress="none")


def test_a_step_in_a_loop_of_ones_own(loaders):
    from act_engine.learners import lr_schedule

    lr_at = lr_schedule("constant", lr=0.1, steps_per_epoch=3, total_steps=9, milestones=(), gamma=1.0)
    learner = act_engine.build_learner("single", net(), connect(torch.device("cpu")), lr_at=lr_at)
    attack = act_engine.Attack(
        learner.attack_view(),
        kl_weight=0.0,
        ce_weight=1.0,
        start="uniform",
        steps=2,
        step_size=0.05,
        eps=0.1,
        generator=torch.Generator(),
    )
    step = act_engine.TrainingStep(act_engine.build_objective("madry"), {"robust": learner}, attack, seed=0)
    losses = [step(*batch)["robust"] for _ in range(3) for batch in loaders[0]]
    assert losses[-1] < losses[0]
    assert step.steps_taken == 9
