"""What would end a run with a trace, or at its end, is one line before its first step."""

import builtins
import copy

import numpy as np
import pytest
import torch
from torch import nn

from act_engine import analyze, report, study, train
from act_engine.config import Config
from act_engine.data import Pictures, Source, Splits, build_data, registry
from act_engine.runs.folder import check_output
from act_engine.training.preflight import check_model
from act_engine.training.trainer import Trainer

DIGITS = ["--recipe", "digits", "--train.device", "cpu"]
SMALL = (1, 8, 8)


def refused(main, words, capsys, *parts):
    """The door says no in one line that holds `parts`."""
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for part in parts:
        assert part in error


class OneValue(nn.Module):
    """Its BatchNorm sees one value a channel and image."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--model.name", "vgg11"], ["model.name: got 'vgg11'", "[1, 8, 8]"]),
        (["--model.natural_name", "vgg11"], ["model.natural_name: got 'vgg11'", "[1, 8, 8]"]),
        (
            ["--model.name", "resnet18", "--data.batch_size", "1"],
            ["data.batch_size: got 1 image a pass", "model.name: got 'resnet18'", "2 or more"],
        ),
        (
            ["--model.name", "resnet18", "--data.batch_size", "4", "--train.accumulate", "4"],
            ["data.batch_size: got 1 image a pass", "train.accumulate"],
        ),
    ],
    ids=["pools to nothing", "the natural one too", "one image", "one image a part"],
)
def test_a_model_that_does_not_take_the_images(words, parts, tmp_path, capsys):
    refused(train.main, [*DIGITS, *words, "--output", str(tmp_path / "run")], capsys, *parts)
    assert list(tmp_path.iterdir()) == []


def check(model, pass_size=2, shapes=(SMALL,)):
    check_model(model, "models: got 'robust'", shapes, num_classes=10, pass_size=pass_size)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), r"takes images of \[1, 8, 8\] .*RuntimeError"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "a model of 10 classes or more, where it has 3"),
        (nn.Conv2d(1, 10, 8), r"an output of shape \[2, 10, 1, 1\]"),
        (nn.Sequential(nn.Flatten(2), nn.RNN(64, 10, batch_first=True)), "a tuple of 2"),
        (
            nn.Sequential(
                nn.Conv2d(1, 3, 8), nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten(), nn.Linear(3, 10)
            ),
            "in training",
        ),
    ],
    ids=["size", "classes", "no logits", "tuple", "in training alone"],
)
def test_a_given_model_is_named(model, words):
    with pytest.raises(ValueError, match=rf"^models: got 'robust'.*{words}"):
        check(model)


def test_every_picture_size_of_a_run_is_tried():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"takes images of \[1, 6, 6\]"):
        check(model, shapes=[SMALL, (1, 6, 6)])


@pytest.mark.parametrize("pass_size", [2, 128, None])
def test_one_value_a_channel_is_fine_with_two_images_or_without_training(pass_size):
    check(OneValue(), pass_size)


def test_models_and_generators_are_left_as_they_were(seeded):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 10))
    model[1].eval()
    model.double()
    modes = [module.training for module in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_trainer_checks_given_models(tiny_config, tmp_path):
    from act_engine.config import from_mapping

    config: Config = from_mapping({**tiny_config, "objective": {"name": "madry"}})
    with pytest.raises(ValueError, match=r"^models: got 'robust'; allowed: a model that takes images of \[1, 8, 8\]"):
        Trainer(config, tmp_path / "run", models={"robust": nn.Linear(5, 10)})
    assert list(tmp_path.iterdir()) == []


def test_splits_of_other_shapes_are_refused(monkeypatch):
    """Whatever source they come from, here one from outside."""
    sizes = {"train": 8, "test": 8, "selection": 8}

    def load():
        parts = {name: Pictures(np.zeros((4, size, 8, 1), np.uint8), np.arange(4)) for name, size in sizes.items()}
        return Splits(parts["train"], parts["test"], 4, selection=parts["selection"])

    known = registry.sources() | {"odd": Source("odd", load)}
    monkeypatch.setattr(registry, "sources", lambda: known)
    build_data("odd", batch_size=2, selection=True)
    for split in ("test", "selection"):
        sizes[split] = 6
        with pytest.raises(ValueError, match=rf"data.name: got 'odd', whose {split} pictures are \[6, 8, 1\]"):
            build_data("odd", batch_size=2, selection=True)
        sizes[split] = 8


@pytest.fixture
def finished(tiny_config, tmp_path):
    from act_engine.config import from_mapping

    settings = {**tiny_config, "train": {**tiny_config["train"], "max_steps": 1}, "evaluate": {"attack": "none"}}
    folder = tmp_path / "finished"
    assert Trainer(from_mapping(settings), folder).run() == 0
    return folder


def hidden(monkeypatch, package):
    """As if `package` were not installed."""
    original = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.parametrize("door", [analyze, report, study])
def test_a_package_that_the_end_needs_is_asked_for_first(door, finished, monkeypatch, capsys, tmp_path):
    hidden(monkeypatch, "matplotlib")
    word = "digits" if door is study else str(finished)
    words = [word, "--output", str(tmp_path / "out")]
    before = sorted(finished.rglob("*"))
    refused(door.main, words, capsys, "matplotlib", "act-engine[report]")
    assert sorted(finished.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_a_study_asks_for_autoattack_first(monkeypatch, capsys, tmp_path):
    hidden(monkeypatch, "pyautoattack")
    refused(study.main, ["digits", "--output", str(tmp_path / "out")], capsys, "act-engine[evaluation]")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("door", "setting"), [(train, "--output"), (analyze, "--output"), (report, "--output"), (study, "--output")]
)
def test_where_results_go_is_looked_at_first(door, setting, finished, capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    first = {train: DIGITS, study: ["digits"]}.get(door, [str(finished)])
    before = sorted(finished.rglob("*"))
    for place in (tmp_path / "file", tmp_path / "file" / "deeper", tmp_path / "nowhere"):
        refused(door.main, [*first, setting, str(place)], capsys, f"{setting}: got {str(place)!r}", "is no folder")
    assert (tmp_path / "file").read_text() == "precious"
    assert sorted(finished.rglob("*")) == before


def test_a_studys_results_too_and_a_folder_in_a_files_place(capsys, tmp_path):
    (tmp_path / "results" / "digits.json").mkdir(parents=True)
    words = ["digits", "--output", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    refused(study.main, words, capsys, "--results: got", "digits.json", "is a folder")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_be_made_is_fine(tmp_path):
    check_output("--output", tmp_path / "a" / "b")
    check_output("--output", tmp_path)
    assert list(tmp_path.iterdir()) == []
