"""What a leaderboard asks for: a claim with the keys of RobustBench's own, weights that load in three lines, a card."""

import json
import re
import runpy

import pytest
import torch

from act_engine import build_data, evaluate
from act_engine.config import from_mapping
from act_engine.evaluation.subset import chosen
from act_engine.reporting.leaderboard import radius, readable
from act_engine.training.trainer import Trainer

pytest.importorskip("pyautoattack")

KEYS = {
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture"),
    *("eps", "clean_acc", "reported", "autoattack_acc"),
}
"""Of the claim in "Adding a new model" of github.com/RobustBench/robustbench (README, March 2025)."""
AUTOATTACK = ["--attack", "autoattack", "--images", "16", "--steps", "2", "--restarts", "1", "--check_masking", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = {
        "objective": {"name": "natural"},
        "model": {"mean": [0.3], "std": [0.4]},
        "train": {"epochs": 2, "device": "cpu"},
        "evaluate": {"attack": "none", "eps": 64 / 255},
    }
    folder = tmp_path_factory.mktemp("export") / "Doe2026Robust"
    assert Trainer(from_mapping(settings), folder).run() == 0
    return folder


def test_a_run_becomes_a_claim_weights_and_a_card(run, monkeypatch, capsys):
    assert evaluate.main([str(run), *AUTOATTACK, "--export", "robustbench"]) == 0
    place = run / "robustbench"
    assert f"{place / 'README.md'} says what is left to fill in" in capsys.readouterr().out
    claim = json.loads((place / "model_info" / "digits" / "Linf" / "Doe2026Robust.json").read_text())
    assert claim.keys() == KEYS
    entry = json.loads(next((run / "evaluations").glob("autoattack*.json")).read_text())["models"]["natural"]
    assert claim["eps"] == "64/255"
    assert float(claim["clean_acc"]) == pytest.approx(100 * entry["clean_accuracy"], abs=0.005)
    assert float(claim["autoattack_acc"]) == pytest.approx(100 * entry["robust_accuracy"], abs=0.005)
    monkeypatch.chdir(place)
    model = runpy.run_path("load.py")["model"]
    images, labels = next(build_data("digits", batch_size=500).test.epoch(0))
    places = chosen(0, 500, 16, 500)
    right = (model(images).argmax(1) == labels)[places].float().mean().item()
    assert entry["clean_accuracy"] == pytest.approx(right)
    card = (place / "README.md").read_text()
    assert re.search(r"\| Robust accuracy \| \S+ % \(95 % interval", card)
    assert "fill in link, name, authors, additional_data, venue" in card
    assert "there is none for digits" in card


def test_a_users_own_model_takes_its_file_along(tmp_path, monkeypatch):
    source = "from torch import nn\n\n\ndef net(num_classes: int) -> nn.Module:\n"
    source += "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    (tmp_path / "exported_net.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, "net.pt")
    words = ["--model.name", "exported_net:net", "--model.weights", "net.pt", "--data.name", "digits", "--eps", "0.01"]
    assert evaluate.main([*words, *AUTOATTACK, "--export", "robustbench", "--output", "out"]) == 0
    place = tmp_path / "out" / "robustbench"
    monkeypatch.chdir(place)
    model = runpy.run_path("load.py")["model"]
    assert torch.equal(model[1].weight, torch.load(tmp_path / "net.pt")["1.weight"])
    assert (place / "exported_net.py").read_text() == source
    assert (place / "model_info" / "digits" / "Linf" / "out.json").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "evaluate.attack: got 'none'; allowed with --export robustbench: autoattack"),
        (["--attack", "autoattack", "--version", "rand"], "got 'autoattack rand'"),
        (["--attack", "autoattack", "--norm", "l1", "--eps", "1"], "evaluate.norm: got 'l1'; allowed with --export"),
        ([*AUTOATTACK, "--export_name", "../me"], "--export_name: got '../me'"),
        ([*AUTOATTACK, "--quick"], "--quick: got True; allowed with --export"),
    ],
)
def test_no_claim_without_its_evidence(run, words, expected, capsys):
    with pytest.raises(SystemExit) as exit_:
        evaluate.main([str(run), *words, "--export", "robustbench"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert expected in error
    assert error.count("\n") == 1


def test_names_and_radii_as_the_leaderboards_write_them():
    assert [readable(name) for name in ("robustbench_wrn28_10", "cifar_resnet18", "robustbench_ra_wrn70_16")] == [
        "WideResNet-28-10",
        "ResNet-18",
        "RaWideResNet-70-16",
    ]
    assert readable("vit_small_patch16_224") == "vit_small_patch16_224"
    assert [radius(8 / 255, "linf"), radius(0.15, "linf"), radius(1.0, "l2"), radius(0.5, "l2")] == [
        "8/255",
        "0.15",
        "1",
        "0.5",
    ]
