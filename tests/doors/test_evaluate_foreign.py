"""A model that was trained elsewhere is measured from the command line, and as the libraries measure it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from act_engine import evaluate
from act_engine.evaluation.subset import chosen

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, image_shape=(1, 8, 8)):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))

    def forward(self, images):
        return self.layers(images)
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A user's file with a class, and weights of a short natural training, wrapped as trainers wrap them."""
    (tmp_path / "users_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import users_net

    from act_engine import build_data, fit

    torch.manual_seed(0)
    data = build_data("digits", batch_size=64)
    model = fit(users_net.Net(), data.train, objective="natural", epochs=4, lr=0.1, progress=False).models["natural"]
    torch.save({"epoch": 4, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, "net.pt")
    return model, data


WORDS = ["--model.name", "users_net:Net", "--model.weights", "net.pt", "--data.name", "digits", "--eps", "0.05"]


@pytest.mark.parametrize(("attack", "count"), [("apgd-ce", 40), ("autoattack", 12)])
def test_its_figures_are_those_of_the_model_and_of_pyautoattack(attack, count, foreign, tmp_path, capsys):
    pyautoattack = pytest.importorskip("pyautoattack")
    model, data = foreign
    words = [*WORDS, "--attack", attack, "--images", str(count), "--steps", "5", "--restarts", "1", "--output", "out"]
    assert evaluate.main([*words, "--check_masking", "false", "--progress", "none"]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]["model"]
    images, labels = (torch.cat(parts) for parts in zip(*data.test.epoch(0), strict=True))
    x, y = (part[chosen(0, len(labels), count, len(labels))] for part in (images, labels))
    assert found["clean_accuracy"] == int((model(x).argmax(1) == y).sum()) / count
    library = pyautoattack.AutoAttack(model, norm="Linf", eps=0.05, seed=0, version="standard")
    if attack != "autoattack":
        library.attacks_to_run = [attack]
    _, predicted = library.run_standard_evaluation(x.contiguous(), y, batch_size=count)
    # The same seed, batch and arithmetic: the same images withstand.
    assert 0 < found["robust_accuracy"] == int((predicted == y).sum()) / count < found["clean_accuracy"]
    assert "model" in capsys.readouterr().out


def test_pgd_and_started_again(foreign, tmp_path):
    words = [*WORDS, "--steps", "3", "--restarts", "1", "--images", "50", "--check_masking", "false", "--output", "out"]
    assert evaluate.main(words) == 0
    first = (tmp_path / "out" / "evaluation.json").read_text()
    assert evaluate.main(words) == 0
    assert (tmp_path / "out" / "evaluation.json").read_text() == first
    accuracies = json.loads(first)["models"]["model"]
    assert accuracies["robust_accuracy"] < accuracies["clean_accuracy"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.name", "small_cnn", "--eps", "0.1"], "model.weights: got None"),
        (["--model.name", "small_cnn", "--model.weights", "nowhere.pt"], "--eps: got None"),
        (["--model.name", "small_cnn", "--model.weights", "nowhere.pt", "--eps", "0.1"], "nowhere.pt"),
        (["--model.nam", "small_cnn"], "did you mean 'model.name'"),
        (
            ["runs/digits", "--model.weights", "x.pt"],
            "RUN: got 'runs/digits'; allowed with --model.NAME",
        ),
        (["--model.weights", "x.pt", "--eps", "0.1", "--model.head", "new"], "model.head: got 'new'; allowed: 'keep'"),
        (
            ["--model.weights", "x.pt", "--eps", "0.1", "--data.label_noise", "0.1"],
            "data.label_noise: got 0.1; allowed: 0.0",
        ),
        (["--model.weights", "x.pt", "--attack", "none", "--steps", "3"], "evaluate.steps: got 3; allowed: 100"),
        (["--model.weights", "x.pt", "--eps", "0.1", "--export_name", "me"], "--export_name: got 'me'"),
        (["--model.weights", "x.pt", "--eps", "0.1", "--export", "robustbench"], "--output: got None"),
        (["--model.weights", "x.pt", "--eps", "8", "--data.name", "digits"], "did you mean 8/255"),
    ],
)
def test_a_mistake_is_one_line(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(words)
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert expected in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_two_processes_measure_what_one_does(foreign, tmp_path):
    """Figures, by-class figures and noise alike: each image's draws belong to its place."""
    words = [*WORDS, "--steps", "3", "--restarts", "1", "--images", "60", "--check_masking", "false", "--device", "cpu"]
    images, labels = next(foreign[1].test.epoch(0))
    np.savez("mine.npz", test_images=images[:31].permute(0, 2, 3, 1).numpy(), test_labels=labels[:31].numpy())
    words += ["--corruptions", "gaussian_noise", "--also", "mine.npz", "--progress", "none"]
    assert evaluate.main([*words, "--output", "one"]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "act_engine.evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *words, "--output", "two"], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert one["also"]["mine"]["samples"] == 31
