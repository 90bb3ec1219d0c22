"""The commands of docs/your_models.md run as they stand there."""

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from act_engine import build_data
from act_engine.data.sample_tree import write_tree

timm = pytest.importorskip("timm")
pytest.importorskip("pyautoattack")
pytest.importorskip("nvidia.dali")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your_models.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (\d)\. .*?\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder with what the page names, but for what its commands write."""
    folder = tmp_path_factory.mktemp("journeys")
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in timm.create_model("resnet18").state_dict().items()}
    torch.save({"state_dict": state, "epoch": 90}, folder / "resnet18.pth")
    write_tree(folder / "pictures", classes=4, train=4, test=2, size=64)
    (folder / "my_file.py").write_text(PYTHON[0])
    sizes = {"layers.1": (64, 64), "layers.3": (10, 64)}
    weights = {f"{name}.weight": torch.randn(shape) / 8 for name, shape in sizes.items()}
    biases = {f"{name}.bias": torch.zeros(shape[0]) for name, shape in sizes.items()}
    torch.save({"epoch": 3, "model_state_dict": weights | biases}, folder / "net.pt")
    images, labels = next(build_data("digits", batch_size=50).test.epoch(0))
    np.savez(folder / "mine.npz", test_images=images.permute(0, 2, 3, 1).numpy(), test_labels=labels.numpy())
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a section's commands, each as one process of its own would; returns what they print."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def commands(section: str) -> str:
        blocks = re.findall(r"```sh\n(.*?)```", SECTIONS[section], flags=re.DOTALL)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            torchrun, m, module, *words = shlex.split(line)
            assert (torchrun, m) == ("torchrun", "-m")
            assert import_module(module).main(words) == 0, line
        return capsys.readouterr().out

    return commands


def evaluation(folder: str) -> dict:
    return json.loads(Path(folder, "evaluation.json").read_text("utf-8"))


def test_the_best_model_out_and_onto_a_leaderboard(run):
    printed = run("1")
    assert "held-out training images" in printed
    assert "robust" in evaluation("runs/best")["models"]
    assert {file.name for file in Path("runs/best").glob("*.safetensors")} == {
        "robust.safetensors",
        "last.robust.safetensors",
    }
    printed = run("4")
    assert "corrupted %" in printed
    assert "mine %" in printed
    assert Path("runs/best/robustbench/model_info/digits/Linf/Doe2026Robust.json").is_file()


def test_somebodys_weights_for_other_classes(run):
    printed = run("2")
    assert "left: fc.weight [1000, 512], fc.bias [1000]" in printed
    assert len(evaluation("runs/finetuned")["models"]["robust"]["per_class"]["clean_accuracy"]) == 4


def test_a_model_that_was_trained_elsewhere(run, capsys):
    printed = run("3")
    assert "robust: PGD-20" in printed
    assert "robust: AutoAttack standard" in printed
    exec(compile(PYTHON[1], "your_models.md", "exec"), {})
    table = capsys.readouterr().out
    assert "model" in table
    clean = evaluation("evaluations/net")["models"]["model"]["clean_accuracy"]
    assert f"{100 * clean:.1f}" in table
