"""Whole runs: same seed, same bits; resuming; what a run leaves behind; what stops it."""

import json
import os
import re
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file

from act_engine import train
from act_engine.config import from_mapping
from act_engine.learners import lr_schedule
from act_engine.models import build_model, load_weights
from act_engine.models.finite import non_finite
from act_engine.training.trainer import NonFiniteLoss, NonFiniteWeights, Trainer


def run(settings, folder, **train):
    settings = {**settings, "train": {**settings["train"], **train}}
    trainer = Trainer(from_mapping(settings), folder)
    assert trainer.run() == 0
    return trainer


def weights(folder):
    return {name: load_file(folder / f"{name}.safetensors") for name in ("robust", "natural")}


def assert_bit_identical(first, second):
    for name, state in first.items():
        assert state.keys() == second[name].keys()
        for key, value in state.items():
            assert torch.equal(value, second[name][key]), f"{name}.{key}"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tiny_config, tmp_path):
    run(tiny_config, tmp_path / "a")
    run(tiny_config, tmp_path / "b")
    run(tiny_config, tmp_path / "c", seed=2)
    assert_bit_identical(weights(tmp_path / "a"), weights(tmp_path / "b"))
    other = weights(tmp_path / "c")["robust"]["fc.weight"]
    assert not torch.equal(weights(tmp_path / "a")["robust"]["fc.weight"], other)
    evaluations = [json.loads((tmp_path / x / "evaluation.json").read_text()) for x in "ab"]
    assert evaluations[0] == evaluations[1]


@pytest.mark.parametrize(("stop", "optimizer"), [(1, "sgd"), (5, "sgd"), (7, "sgd"), (7, "adamw")])
def test_a_run_stopped_at_any_step_goes_on_to_the_same_bits(tiny_config, tmp_path, stop, optimizer):
    """5 is the end of an epoch, the others lie inside one."""
    optim = {**tiny_config["optim"], "name": optimizer}
    settings = {**tiny_config, "optim": optim, "checkpoint": {"every_steps": 1}}
    run(settings, tmp_path / "whole")
    trainer = Trainer(from_mapping(settings), tmp_path / "parts")
    step = trainer.train_step

    def interrupted(*batch):
        if trainer.step == stop - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*batch)

    trainer.train_step = interrupted
    assert trainer.run() == 128 + signal.SIGTERM
    assert trainer.step == stop
    assert not (tmp_path / "parts" / "robust.safetensors").exists()
    run(settings, tmp_path / "parts")
    assert_bit_identical(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    losses = [
        [{k: v for k, v in json.loads(line).items() if k in ("step", "epoch", "lr")} for line in path.open()]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    ]
    assert losses[0] == losses[1]


def test_a_run_leaves_what_the_readme_promises(tiny_config, tmp_path):
    trainer = run(tiny_config, tmp_path / "run")
    folder = tmp_path / "run"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["attack"]["loss"] == "kl"
    assert config["attack"]["start"] == "gaussian"
    assert config["model"]["num_classes"] == 10
    environment = json.loads((folder / "environment.json").read_text())
    assert {"packages", "device", "kernels", "git_commit"} <= environment.keys()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    expected = {"step", "epoch", "robust_loss", "natural_loss", "lr", "images_per_second", "data_wait_fraction"}
    assert all(expected <= record.keys() for record in records)
    assert records[0]["robust_loss"] > records[-1]["robust_loss"]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["models"].keys() == {"robust", "natural"}
    assert evaluation["attack"]["steps"] == 3
    assert evaluation["samples"] == 500
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    load_weights(model, folder / "robust.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, trainer.learners["robust"].module.state_dict()[key]), key
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step-10", "step-5"]
    assert list((folder / "tensorboard").iterdir())


def test_a_finished_run_started_again_only_evaluates(tiny_config, tmp_path):
    run(tiny_config, tmp_path / "run")
    before = weights(tmp_path / "run")
    trainer = Trainer(from_mapping(tiny_config), tmp_path / "run")
    trainer.train_step = None  # would fail if called
    assert trainer.run() == 0
    assert_bit_identical(before, weights(tmp_path / "run"))


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(tiny_config, tmp_path):
    settings = {**tiny_config, "checkpoint": {"every_steps": 3}}
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    step = trainer.train_step

    def poisoned(images, labels):
        return step(images * float("nan") if trainer.step == 4 else images, labels)

    trainer.train_step = poisoned
    with pytest.raises(NonFiniteLoss, match=r"step 5: robust loss nan, natural loss nan.*optim\.lr"):
        trainer.run()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]
    resumed = run(settings, tmp_path / "run")
    assert resumed.step == 10


def inflated(trainer, at_step):
    """From a step on the robust model's gradients are so large that a finite loss gives weights that are not."""
    from act_engine.learners import Learner

    robust = trainer.learners["robust"]

    def step(learner):
        if learner is robust and trainer.step == at_step:
            for parameter in learner.module.parameters():
                parameter.grad.fill_(1e38)
                parameter.grad.mul_(10)
        Learner.step(learner)

    robust.step = lambda: step(robust)


@pytest.mark.parametrize("on_error", ["stop", "continue"])
@pytest.mark.parametrize("last", [False, True])
def test_weights_that_are_not_finite_are_neither_saved_nor_exported(tiny_config, tmp_path, last, on_error, capsys):
    """The losses are finite to the end: it is the last step's gradient, or that of a step with a checkpoint."""
    settings = {**tiny_config, "checkpoint": {"every_steps": 1, "keep": 2, "on_error": on_error}}
    settings["train"] = {**tiny_config["train"], "max_steps": 4 if last else 9}
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    inflated(trainer, at_step=3)
    with pytest.raises((NonFiniteWeights, NonFiniteLoss), match=r"step [45]") as stopped:
        trainer.run()
    assert "intact" in str(stopped.value)
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-2", "step-3"]
    assert run(settings, tmp_path / "run").step == (4 if last else 9)
    assert "going on after step 3" in capsys.readouterr().out


def test_a_rate_at_which_everything_blows_up_leaves_a_run_that_can_go_on(tmp_path, capsys):
    words = ["--recipe", "digits", "--train.device", "cpu", "--attack.steps", "1", "--train.max_steps", "40"]
    words += ["--optim.lr", "1e3", "--checkpoint.every_steps", "1", "--checkpoint.keep", "3"]
    words += ["--evaluate.attack", "none", "--output", str(tmp_path / "run")]
    for _ in range(2):
        assert train.main(words) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.match(r"error: step \d+: .*(NaN|nan|inf).* intact", error), error
        folders = list((tmp_path / "run" / "checkpoints").iterdir())
        assert folders
        for folder in folders:
            assert not any(non_finite(load_file(file)) for file in folder.glob("*.safetensors"))
        assert not list((tmp_path / "run").glob("*.safetensors"))


def test_the_held_out_images_do_not_measure_what_is_not_finite(tiny_config, tmp_path):
    settings = {**tiny_config, "checkpoint": {"best_every_epochs": 1}, "evaluate": {"attack": "none"}}
    settings["data"] = {**tiny_config["data"], "selection_samples": 50}
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    inflated(trainer, at_step=trainer.steps_per_epoch - 1)
    with pytest.raises(NonFiniteWeights, match=f"step {trainer.steps_per_epoch}: the robust model's"):
        trainer.run()
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_max_steps_ends_the_run_early(tiny_config, tmp_path):
    assert run(tiny_config, tmp_path / "run", max_steps=3).step == 3


@pytest.mark.parametrize("objective", ["natural", "madry", "trades", "mart"])
def test_every_objective_trains(tiny_config, tmp_path, objective):
    attack = {} if objective == "natural" else tiny_config["attack"]
    trainer = run({**tiny_config, "attack": attack, "objective": {"name": objective}}, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (name,) = trainer.learners
    assert records[-1][f"{name}_loss"] < records[0][f"{name}_loss"]
    assert (tmp_path / "run" / f"{name}.safetensors").exists()


def test_a_robust_model_teaches_another(tiny_config, tmp_path):
    run({**tiny_config, "objective": {"name": "madry", "awp_gamma": 0.005}}, tmp_path / "teacher")
    settings = {
        **tiny_config,
        "objective": {"name": "rslad"},
        "model": {"teacher_weights": str(tmp_path / "teacher" / "robust.safetensors")},
    }
    trainer = run(settings, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert records[-1]["robust_loss"] < records[0]["robust_loss"]
    assert trainer.learners.keys() == {"robust"}
    before, after = load_file(tmp_path / "teacher" / "robust.safetensors"), trainer.frozen["teacher"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_student_and_its_teacher_learn_together(tiny_config, tmp_path):
    run({**tiny_config, "objective": {"name": "lbgat"}}, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert records[-1]["natural_loss"] < records[0]["natural_loss"]
    assert weights(tmp_path / "run").keys() == {"robust", "natural"}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_trains(tiny_config, tmp_path, precision):
    settings = {**tiny_config, "data": {"name": "digits", "batch_size": 32}, "evaluate": {"attack": "none"}}
    run(settings, tmp_path / "run", precision=precision, max_steps=6)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert records[-1]["robust_loss"] < records[0]["robust_loss"]


def test_schedules():
    settings = {"lr": 0.1, "steps_per_epoch": 10, "total_steps": 100}
    multistep = lr_schedule("multistep", **settings, milestones=(2, 5), gamma=0.2)
    assert [multistep(step) for step in (0, 19, 20, 49, 50)] == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004])
    cosine = lr_schedule("cosine", **settings)
    assert [cosine(step) for step in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0])
    onecycle = lr_schedule("onecycle", **settings)
    assert max(onecycle(step) for step in range(100)) == pytest.approx(0.1)
    assert onecycle(29) == pytest.approx(0.1)
    assert onecycle(99) == pytest.approx(0)
    assert onecycle(64) == pytest.approx(0.05)


def test_a_run_starts_from_given_weights_and_normalises_inside(tiny_config, tmp_path):
    normalised = {"mean": [0.3], "std": [0.4]}
    first = run({**tiny_config, "model": normalised}, tmp_path / "first")
    weights = {"weights": str(tmp_path / "first" / "robust.safetensors")}
    second = Trainer(from_mapping({**tiny_config, "model": {**normalised, **weights}}), tmp_path / "second")
    images, _ = next(first.data.test.epoch(0))
    for name, same in (("robust", True), ("natural", False)):
        ours, theirs = (t.learners[name].module.eval()(images) for t in (second, first))
        assert torch.equal(ours, theirs) == same
    with pytest.raises(ValueError, match="not plain weights"):
        Trainer(from_mapping({**tiny_config, "model": {"weights": "nowhere.safetensors"}}), tmp_path / "third")


def test_the_best_checkpoint_and_those_of_every_few_epochs_are_kept(tiny_config, tmp_path):
    checkpoints = {"keep": 1, "keep_every_epochs": 2, "best_every_epochs": 1}
    settings = {**tiny_config, "checkpoint": checkpoints, "evaluate": {"steps": 2, "restarts": 1}}
    run(settings, tmp_path, epochs=5)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    measured = {r["step"]: r["held_out_robust_accuracy"] for r in records if "held_out_robust_accuracy" in r}
    assert list(measured) == [4, 8, 12, 16, 20]
    last = 5 * 4  # steps per epoch: 26 images are held out
    saved = {int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").iterdir()}
    values = json.loads((tmp_path / "checkpoints" / f"step-{last}" / "state.json").read_text())
    best = values["best"]
    assert saved == {8, 16, last, best["step"]}
    assert best["accuracy"] == max(measured.values()) == measured[best["step"]] > 0
