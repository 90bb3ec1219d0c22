"""An objective of an installed package is one of the engine's own: trained, planned for, explained, named, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from act_engine import plan, report, train
from act_engine.config import from_mapping
from act_engine.objectives import build_objective, objectives
from act_engine.runs.folder import read_config
from act_engine.runs.methods import method_label

PACKAGE = '''"""Adversarial training with a hinge: each wrong logit has to stay `margin` below the right one."""

from dataclasses import dataclass
from typing import ClassVar

from act_engine.objectives import Objective, number


@dataclass(frozen=True)
class Hinge(Objective):
    """min mean over i of sum over k of max(0, margin + S_k(x') - S_y(x'))^power; x' maximises the cross-entropy."""

    margin: float = number(1.0, "distance asked for between the right logit and every other", above=0)
    power: int = number(1, "1: hinge, 2: squared hinge", least=1, most=2)

    name: ClassVar = "hinge"
    label: ClassVar = "hinge adversarial training"
    trains: ClassVar = ("robust",)
    attack_losses: ClassVar = ("ce",)
    attack_start: ClassVar = "uniform"

    def losses(self, models, attack, images, labels):
        logits = models["robust"](attack(images, labels))
        right = logits.gather(1, labels[:, None])
        excess = (self.margin + logits - right).clamp_min(0) ** self.power
        return {"robust": excess.sum(1).mean() - self.margin**self.power}
'''
SETTINGS = ["--recipe", "digits", "--objective.name", "hinge", "--train.device", "cpu", "--train.max_steps", "2"]
QUICK = ["--attack.steps", "2", "--evaluate.attack", "none", "--train.log_every", "1"]


def install(folder: Path, name: str, source: str, entry: str) -> None:
    """As pip leaves a package of one file: the module, and a folder of metadata beside it."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (folder / f"{name}.py").write_text(source)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[act_engine.objectives]\n{entry}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, "hinge_training", PACKAGE, "hinge = hinge_training:Hinge")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def losses(run: Path) -> list[float]:
    return [json.loads(line)["robust_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_trains_by_one_process_and_by_two_and_is_named_in_the_report(package: Path, tmp_path: Path):
    words = [*SETTINGS, *QUICK, "--objective.margin", "1/2", "--objective.power=2"]
    run, two = tmp_path / "run", tmp_path / "two"
    assert train.main([*words, "--data.batch_size", "64", "--output", str(run)]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join((str(package), *filter(None, [os.environ.get("PYTHONPATH")])))
    result = subprocess.run(
        [*torchrun, "-m", "act_engine.train", *words, "--data.batch_size", "32", "--output", str(two)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for folder in (run, two):
        config = read_config(folder)
        assert config.objective.numbers == {"margin": 0.5, "power": 2}
        assert method_label(config) == "hinge adversarial training"
        assert len(losses(folder)) == 2
        assert all(loss > 0 for loss in losses(folder))
    assert read_config(two).parallel.strategy == "ddp"
    assert report.main([str(run), "--samples", "8"]) == 0
    assert "hinge adversarial training" in (run / "report.html").read_text("utf-8")


def test_it_is_planned_for_and_explained(package: Path, capsys: pytest.CaptureFixture[str]):
    assert plan.main(["--recipe", "digits", "--objective.name", "hinge", "--gpus", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("hinge on digits")
    assert "training, an image: forward and backward, 1 of the robust model" in text
    with pytest.raises(SystemExit):
        train.main(["--help", "objective"])
    text = capsys.readouterr().out
    assert "hinge: hinge adversarial training" in text
    assert "--objective.margin  above 0, by default 1; distance asked for" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective.margn", "1"], "objective.margn: got 1.0; allowed with objective hinge: margin, power; did you"),
        (["--objective.margin", "0"], "objective.margin: got 0.0; allowed: above 0"),
        (["--objective.margin", "wide"], "--objective.margin: got 'wide'; allowed: a number or a fraction"),
        (["--objective.power", "1.5"], "objective.power: got 1.5; allowed: a whole number"),
        (["--objective.power", "3"], "objective.power: got 3; allowed: 1 to 2"),
        (["--objective.beta", "3"], "objective.beta: got 3.0; allowed with objective hinge: margin, power"),
        (["--objective.name", "hing"], "objective.name: got 'hing'; allowed: act, "),
        (["--attack.loss", "kl"], "attack.loss: got 'kl'; allowed with objective hinge: auto, ce"),
    ],
)
def test_a_mistake_in_its_settings(
    package: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as exit_:
        train.main([*SETTINGS, *words, "--output", str(tmp_path / "run")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "entry", "message"),
    [
        ("import nowhere_to_be_found\n", "broken = torn_plugin:It", "cannot be loaded: No module"),
        ("class It: pass\n", "plain = torn_plugin:It", "allowed: a subclass of act_engine.objectives.Objective"),
        ("from act_engine.objectives.act import ACT as It\n", "mine = torn_plugin:It", "with a name of its own"),
    ],
)
def test_a_package_that_names_no_objective(
    source: str, entry: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, "torn_plugin", source, entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torn_plugin", raising=False)
    with pytest.raises(ValueError, match=r"^objective\.name: the .*torn_plugin:It") as error:
        objectives()
    assert message in str(error.value)


def test_a_recipes_numbers_do_not_hinder_another_objective(tmp_path: Path):
    """The recipe's are ACT's own; given with the other name, or in a file of that name, they are a mistake."""
    from act_engine.config import read_recipe, to_mapping
    from act_engine.runs.methods import method_of

    recipe = from_mapping(read_recipe("digits"))
    trades = from_mapping({"objective": {"name": "trades", "beta": 3}}, recipe)
    assert method_of(trades) == build_objective("trades", beta=3)
    assert method_of(from_mapping({"objective": {"name": "mart"}}, trades)) == build_objective("mart", beta=3)
    assert method_of(from_mapping(to_mapping(trades))) == build_objective("trades", beta=3)  # as runs were written
    for given in ({"robust_alpha": 0.4}, {"temperature": 2}, {"temperatur": 4}):
        with pytest.raises(ValueError, match=r"allowed with objective trades: beta, label_smoothing"):
            method_of(from_mapping({"objective": {"name": "trades", **given}}, recipe))
        with pytest.raises(ValueError, match=r"allowed with objective trades"):
            method_of(from_mapping({"train": {"seed": 1}}, from_mapping({"objective": {"name": "trades", **given}})))


def test_a_number_out_of_range_is_refused_where_the_class_is_called():
    from act_engine.objectives.trades import Trades

    for wrong in (-1.0, float("nan"), True, "6"):
        with pytest.raises(ValueError, match=r"objective\.beta: got .*; allowed: 0 or more"):
            Trades(beta=wrong)
    assert torch.equal(torch.tensor(Trades(beta=0).attack_weights("kl", 4)), torch.tensor((1.0, 0.0)))
