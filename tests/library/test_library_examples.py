"""The library's example and its notebook run from top to bottom."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_example_trains_measures_saves_and_loads(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("library_example", EXAMPLES / "library.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.chdir(tmp_path)
    robust = example.main(epochs=2, images=20)
    assert robust.keys() == {"act", "trades"}
    assert {path.name for path in tmp_path.iterdir()} == {"act.safetensors", "trades.safetensors"}
    printed = capsys.readouterr().out
    assert "AutoAttack standard" in printed
    assert printed.count("20 test images") == 3


def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for cell in cells:
        exec(compile(cell, "quickstart.ipynb", "exec"), names)
    assert 0 <= names["report"].robust_accuracy <= names["report"].clean_accuracy <= 1
    assert os.listdir(tmp_path) == ["robust.safetensors"]


def test_the_readmes_first_lines_are_the_librarys(monkeypatch, tmp_path):
    """The README's Python, on a tiny net and loaders of random images."""
    import torch
    from torch import nn

    text = (EXAMPLES.parent / "README.md").read_text("utf-8")
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    code = code.replace("epochs=30", "epochs=1").replace("steps=100, restarts=5", "steps=2, restarts=1")
    images, labels = torch.rand(20, 3, 32, 32), torch.arange(20) % 10

    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))

    monkeypatch.chdir(tmp_path)
    loader = [(images, labels)]
    names = {"net": Net, "train_loader": loader, "test_loader": loader}
    exec(compile(code, "README.md", "exec"), names)
    expected, loaded = names["result"].models["robust"].state_dict(), names["model"].state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())


@pytest.mark.parametrize("door", ["train", "evaluate", "report", "analyze", "study", "plan"])
def test_a_door_runs_as_a_file_too(door):
    """No module of ours bears a name of the standard library, which the file's folder would then shadow."""
    import subprocess
    import sys

    command = [sys.executable, str(EXAMPLES.parent / "act_engine" / f"{door}.py"), "--nonsense", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--nonsense: unknown option" in result.stderr
