"""Evaluations stay side by side, and the newest full one is the run's."""

import json
from pathlib import Path

import pytest

from act_engine import evaluate, report
from act_engine.config import from_mapping
from act_engine.runs.evaluations import evaluations, keep, name_of
from act_engine.training.trainer import Trainer

PGD = {"name": "pgd", "steps": 10, "restarts": 2, "norm": "linf", "eps": 8 / 255, "loss": "ce", "targets": 0}
AUTOATTACK = {"name": "autoattack", "version": "standard", "norm": "l2", "eps": 0.5, "pgd": PGD}


def evaluation(attack=PGD, samples=500, weights="w", **others):
    return {"models": {}, "attack": attack, "samples": samples, "weights": {"robust": weights}, **others}


@pytest.mark.parametrize(
    ("found", "checkpoint", "name"),
    [
        (evaluation(), "best", "pgd-10x2-linf-0.0314-ce-500"),
        (evaluation({**PGD, "targets": 3, "loss": "dlr"}), "last", "pgd-10x2-linf-0.0314-dlr-targets-3-500-last"),
        (evaluation(AUTOATTACK, 100), "best", "autoattack-standard-l2-0.5000-100"),
        (evaluation(None, 9), "step-7", "clean-9-step-7"),
        (evaluation(source="runs/x/"), "best", "pgd-10x2-linf-0.0314-ce-500-from-x"),
        (evaluation(data_path="/data/cifar.npz"), "best", "pgd-10x2-linf-0.0314-ce-500-on-cifar"),
    ],
)
def test_names(found, checkpoint, name):
    assert name_of(found, checkpoint) == name


def test_the_runs_own_is_the_newest_full_one_of_its_weights(tmp_path: Path):
    def own():
        return json.loads((tmp_path / "evaluation.json").read_text())

    keep(tmp_path, evaluation())
    keep(tmp_path, evaluation(AUTOATTACK, 100))
    keep(tmp_path, evaluation(None))
    assert own() == evaluation()
    assert [e["samples"] for e in evaluations(tmp_path)] == [500, 100, 500]
    keep(tmp_path, evaluation(AUTOATTACK))
    assert own() == evaluation(AUTOATTACK)
    assert own() == evaluations(tmp_path)[0]
    keep(tmp_path, evaluation(samples=50, weights="trained further"))
    assert own() == evaluation(samples=50, weights="trained further")
    assert len(evaluations(tmp_path)) == 1, "what was measured of other weights is not its"
    keep(tmp_path, evaluation(data_path="/other"))
    assert own()["samples"] == 50
    assert json.loads((tmp_path / "evaluation_other.json").read_text())["data_path"] == "/other"
    (tmp_path / "evaluations" / "torn.json").write_text('{"models": ')
    (tmp_path / "evaluations" / "foreign.json").write_text('{"models": 3, "attack": 1, "samples": "many"}')
    assert len(evaluations(tmp_path)) == 1
    (tmp_path / "evaluation.json").write_text("{")
    assert evaluations(tmp_path) == []
    keep(tmp_path, evaluation(samples=1))
    assert own()["samples"] == 1, "a torn file is no fuller one"


def test_a_run_measured_three_times(tiny_config, tmp_path: Path, capsys):
    """Each is kept, started again the run measures nothing anew, and the report has a row for each model of each."""
    assert Trainer(from_mapping(tiny_config), tmp_path).run() == 0
    first = json.loads((tmp_path / "evaluation.json").read_text())
    steps = tiny_config["evaluate"]["steps"]
    assert evaluate.main([str(tmp_path), "--attack", "none"]) == 0
    assert evaluate.main([str(tmp_path), "--eps", "0.3", "--images", "100", "--restarts", "1"]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text()) == first
    assert evaluate.main([str(tmp_path), "--eps", "0.3", "--restarts", "1"]) == 0
    second = json.loads((tmp_path / "evaluation.json").read_text())
    assert second["attack"]["eps"] == 0.3
    names = {file.stem for file in (tmp_path / "evaluations").iterdir()}
    assert names == {
        name_of(first),
        "clean-500",
        f"pgd-{steps}x1-linf-0.3000-ce-100",
        f"pgd-{steps}x1-linf-0.3000-ce-500",
    }
    capsys.readouterr()
    assert Trainer(from_mapping(tiny_config), tmp_path).run() == 0
    assert "measured before" in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation.json").read_text()) == second
    assert report.main([str(tmp_path), "--samples", "8"]) == 0
    html = (tmp_path / "report.html").read_text("utf-8")
    for found in (first, second):
        for model in found["models"].values():
            low, high = model["intervals"]["robust_accuracy"]
            assert f"{100 * model['robust_accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})" in html
    sweeps = json.loads((tmp_path / "report" / "sweeps-robust.json").read_text())["of"]
    assert sweeps["eps"] == 0.3, "the curves are of the ball that the report's evaluation has"
