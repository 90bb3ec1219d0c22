"""The best model out: chosen on held-out training images, exported, reported and found again."""

import json

import pytest
import torch
from safetensors.torch import load_file

from act_engine import analyze, evaluate, report
from act_engine.config import from_mapping
from act_engine.learners import deployed
from act_engine.training.checkpoint import load
from act_engine.training.trainer import Trainer


@pytest.fixture
def settings(tiny_config):
    """A learning rate that soon undoes what was learnt: the best model is not the last."""
    return {
        **tiny_config,
        "objective": {"name": "act"},
        "data": {"name": "digits", "batch_size": 64, "selection_samples": 100},
        "optim": {"lr": 0.05, "schedule": "multistep", "milestones": [2], "gamma": 1.0},
        "train": {**tiny_config["train"], "epochs": 4},
        "checkpoint": {"best_every_epochs": 1, "best_steps": 2, "keep": 1},
        "evaluate": {"steps": 2, "restarts": 1, "check_masking": False, "images": 100},
    }


def forget(trainer, after):
    """Training that, from some step on, replaces the robust model's weights by noise."""
    step = trainer.train_step

    def train_step(images, labels):
        losses = step(images, labels)
        if trainer.step > after:
            generator = torch.Generator().manual_seed(trainer.step)
            with torch.no_grad():
                for parameter in trainer.learners["robust"].module.parameters():
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return losses

    trainer.train_step = train_step


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_the_best_is_exported_measured_and_reported_and_the_last_beside_it(settings, tmp_path, capsys):
    """The robust model collapses after half of the steps: what is exported is from before."""
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    seen = trainer.data.selection.num_samples, trainer.data.train.num_samples
    assert seen == (100, 1197)
    forget(trainer, after=2 * trainer.steps_per_epoch)
    assert trainer.run() == 0
    measured = [record for record in records(tmp_path / "run") if "held_out_robust_accuracy" in record]
    curve = {record["step"]: record["held_out_robust_accuracy"] for record in measured}
    assert list(curve) == [18, 36, 54, 72]
    best = max(curve, key=curve.get)
    assert best <= 36
    assert trainer.evaluation["selection"] == {
        "step": best, "accuracy": curve[best], "since": (72 - best) // 18, "images": 100, "last_step": 72
    }  # fmt: skip
    models = trainer.evaluation["models"]
    assert models.keys() == {"robust", "natural", "last.robust"}
    assert models["robust"]["clean_accuracy"] > models["last.robust"]["clean_accuracy"]
    printed = capsys.readouterr().out
    assert f"exported: after step {best} of 72, the best on 100 held-out training images" in printed
    assert "last.robust" in printed
    for name in ("robust", "natural"):
        kept = deployed(load(tmp_path / "run" / "checkpoints" / f"step-{best}")[0][name])
        end = deployed(load(tmp_path / "run" / "checkpoints" / "step-72")[0][name])
        for place, expected in (("", kept), ("last.", end)):
            state = load_file(tmp_path / "run" / f"{place}{name}.safetensors")
            assert all(torch.equal(state[key], value) for key, value in expected.items())

    words = [str(tmp_path / "run"), "--checkpoint"]
    for which in ("last", "step-72"):
        assert evaluate.main([*words, which]) == 0
        found = json.loads((tmp_path / "run" / f"evaluation.{which}.json").read_text())
        assert found["models"]["robust"]["clean_accuracy"] == models["last.robust"]["clean_accuracy"]
    assert evaluate.main([*words, f"step-{best}"]) == 0
    found = json.loads((tmp_path / "run" / f"evaluation.step-{best}.json").read_text())
    assert found["models"]["robust"]["robust_accuracy"] == models["robust"]["robust_accuracy"]
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(trainer.evaluation))
    assert report.main([*words, "last", "--samples", "8", "--output", str(tmp_path / "report")]) == 0
    with pytest.raises(SystemExit):
        evaluate.main([*words, "step-7"])
    allowed = f"allowed with '{tmp_path / 'run'}': best, last, step-{best}"
    assert f"--checkpoint: got 'step-7'; {allowed}" in capsys.readouterr().err
    quick = ["--analyses", "compression", "--samples", "20", "--draws", "1", "--output", str(tmp_path / "analysis")]
    assert analyze.main([*words, "last", *quick]) == 0


def test_a_run_without_gain_ends_and_stays_ended(settings, tmp_path, capsys):
    settings["checkpoint"] |= {"best_patience": 1}
    settings["train"]["epochs"] = 50
    trainer = Trainer(from_mapping(settings), tmp_path)
    forget(trainer, after=0)
    trainer.train_step(*next(trainer.data.train.epoch(0)))
    assert trainer.run() == 0
    ended = trainer.step
    assert ended < trainer.total_steps
    assert f"ended after step {ended} of 900: 1 measurements on held-out images without a better one" in "".join(
        capsys.readouterr()
    )
    again = Trainer(from_mapping(settings), tmp_path)
    again.train_step = None  # would fail if called
    assert again.run() == 0
    assert again.step == ended


def test_a_resumed_run_measures_and_exports_as_one_that_was_not_stopped(settings, tmp_path):
    for folder, stops in (("whole", [72]), ("parts", [3, 37, 50, 72])):
        for stop in stops:
            config = from_mapping({**settings, "train": {**settings["train"], "max_steps": stop}})
            trainer = Trainer(config, tmp_path / folder)
            assert trainer.run() == 0
    whole, parts = (
        {r["step"]: r["held_out_robust_accuracy"] for r in records(tmp_path / folder) if r["step"] % 18 == 0}
        for folder in ("whole", "parts")
    )
    assert whole == parts
    for name in ("robust", "natural", "last.robust", "last.natural"):
        first, second = (load_file(tmp_path / folder / f"{name}.safetensors") for folder in ("whole", "parts"))
        assert all(torch.equal(second[key], value) for key, value in first.items()), name
