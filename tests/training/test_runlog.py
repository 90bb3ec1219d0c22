"""What a job's log holds: a header, a line an interval, a footer."""

import re

import pytest

from act_engine.config import from_mapping
from act_engine.runs.folder import check_run
from act_engine.training.trainer import Trainer

NUMBER = r"[\d.]+(?:e-?\d+)?"


@pytest.fixture
def settings(tiny_config):
    tiny_config["train"]["progress"] = "lines"
    tiny_config["checkpoint"] = {"best_every_epochs": 1, "best_steps": 1}
    tiny_config["evaluate"] |= {"images": 100, "steps": 1, "restarts": 1}
    return tiny_config


def test_a_file_gets_a_header_lines_and_a_footer(settings, tmp_path, capsys):
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    assert trainer.run() == 0
    log = capsys.readouterr().err
    assert "\r" not in log
    lines = log.splitlines()
    parameters = sum(p.numel() for p in trainer.learners["robust"].module.parameters())
    training = trainer.data.train.num_samples
    for words in (
        "ACT (robust_alpha 0.5, natural_alpha 0.5",
        f"models: robust small_cnn, {parameters:,} parameters; natural small_cnn, {parameters:,} parameters",
        f"data: digits, {training:,} training and 500 test images, {trainer.data.selection.num_samples:,} to choose",
        "attack: 2 steps of 0.05 within linf 0.15, maximises kl",
        f"training: {trainer.total_steps} steps, 2 epochs, batch 256",
        "device: cpu",
        "kernels: ",
        "pgd_step, random_start, act_loss, kl_ce_loss",
        f"output: {tmp_path / 'run'}",
    ):
        assert words in log
    steps = [line for line in lines if "  training " in line]
    figures = (
        rf"robust_loss {NUMBER}  natural_loss {NUMBER}  held_out_clean_accuracy {NUMBER}%  held_out_robust_accuracy"
    )
    shape = rf"\d\d:\d\d:\d\d  training (\d+)/{trainer.total_steps} steps  epoch (\d)/2  {figures} {NUMBER}%"
    measured = [re.match(shape, line) for line in steps if "accuracy" in line]
    per_epoch = trainer.steps_per_epoch
    assert [match.groups() for match in measured] == [(str(per_epoch), "1"), (str(2 * per_epoch), "2")]
    assert re.search(rf"lr {NUMBER}  images/s {NUMBER}  ETA \d+:\d\d:\d\d$", steps[0])
    total = trainer.total_steps
    assert re.search(rf"^trained steps 1 to {total} of {total} in \d:\d\d:\d\d, {NUMBER} s a step$", log, re.M)
    assert re.search(rf"evaluating (\d+)/\1 images  {NUMBER} images/s  took \d:\d\d:\d\d$", log, re.M)


def test_none_says_nothing_and_is_no_other_run(settings, tmp_path, capsys):
    settings["train"] |= {"progress": "none", "max_steps": 1}
    assert Trainer(from_mapping(settings), tmp_path / "run").run() == 0
    assert capsys.readouterr().err == ""
    settings["train"] |= {"progress": "bar"}
    trainer = Trainer(from_mapping(settings), tmp_path / "run")
    check_run(tmp_path / "run", trainer.config)
