"""Several runs through the door: grouped, kept, plotted; and what a mistake gets."""

import json
import math
from pathlib import Path

import pytest

from act_engine import analyze as door
from act_engine.config import from_mapping
from act_engine.training.trainer import Trainer

SETTINGS = ["--samples", "24", "--draws", "1", "--epochs", "1", "--classes", "5", "--sigmas", "0,0.2"]


def test_runs_side_by_side(tiny_config, tmp_path, capsys):
    folders = []
    data = {"name": "digits", "batch_size": 128, "train_samples": 384}
    shared = {**tiny_config, "data": data, "evaluate": {"attack": "none", "eps": 0.2}}
    for name, seed in (("natural", 1), ("natural", 2), ("madry", 1)):
        folder = tmp_path / f"{name}-{seed}"
        own = {"objective": {"name": name}, "train": {"seed": seed}}
        assert Trainer(from_mapping(own, from_mapping(shared)), folder).run() == 0
        folders.append(str(folder))
    capsys.readouterr()
    arguments = [*folders, "--output", str(tmp_path / "out"), *SETTINGS]
    assert door.main(arguments) == 0
    shown = capsys.readouterr().out
    analysis = json.loads((tmp_path / "out" / "analysis.json").read_text())
    natural, madry = analysis["methods"]["natural training"], analysis["methods"]["adversarial training"]
    assert (natural["seeds"], madry["seeds"]) == ([1, 2], [1])
    entropies = [values["flatness"]["clean"]["entropy"] for values in natural["values"]]
    assert natural["mean"]["flatness"]["clean"]["entropy"] == sum(entropies) / 2
    assert natural["deviation"]["flatness"]["clean"]["entropy"] == pytest.approx(
        abs(entropies[0] - entropies[1]) / math.sqrt(2)
    )
    assert madry["deviation"]["compression"]["probe_accuracy"] is None
    for values in (*natural["values"], *madry["values"]):
        assert all(0 < values["flatness"][kind]["entropy"] < math.log(10) for kind in ("clean", "adversarial"))
        assert len(values["flatness"]["clean"]["loss"]) == 2
        assert values["compression"]["feature_dimension"] == 64
    assert "| measure | natural training | adversarial training |" in shown
    assert f"{sum(entropies) / 2:.3g}" in shown
    assert (tmp_path / "out" / "analysis.png").read_bytes().startswith(b"\x89PNG")

    for folder in folders:  # attacked as they would be tested, whatever they trained with
        of = json.loads((Path(folder) / "analysis" / "flatness.json").read_text())["of"]
        assert (of["eps"], of["norm"]) == (0.2, "linf")

    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/analysis/*.json")}
    assert len(kept) == 9
    assert door.main(arguments) == 0  # read back
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "out" / "analysis.json").read_text()) == analysis
    assert door.main([*arguments, "--sigmas", "0,0.1", "--analyses", "flatness"]) == 0  # measured anew, and that alone
    assert sum(path.stat().st_mtime_ns != before for path, before in kept.items()) == 3
    capsys.readouterr()
    assert door.main([*arguments, "--noise", "", "--analyses", "complexity"]) == 0
    shown = capsys.readouterr().out
    assert "| spectral norm / margin, log10 |" in shown
    assert "random labels" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RUN: the folder of a training run is missing"),
        (["nowhere"], "'nowhere' is no run"),
        (["run", "--analyses", "flat"], "did you mean 'flatness'"),
        (["run", "--samples", "5"], "--samples: got 5; allowed: 20 or more"),
        (["run", "--noise", "0.5,1"], "--noise: got [0.5, 1.0]"),
        (["run", "--sigmas", "0.2,0.1"], "--sigmas: got [0.2, 0.1]"),
    ],
)
def test_mistakes(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        door.main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        door.main(["run"])
    assert "--nproc-per-node: got 2" in capsys.readouterr().err
