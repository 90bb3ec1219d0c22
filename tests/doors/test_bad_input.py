"""A user's mistake gets one line naming setting, value and what is allowed, exit code 2, and leaves nothing behind."""

import os

import pytest
import torch

from act_engine import evaluate, train
from act_engine.config import from_mapping
from act_engine.objectives import build_objective
from act_engine.parallel import World
from act_engine.training.resolve import resolve

CASES = {
    "unknown recipe": (["--recipe", "digit"], ["--recipe", "'digit'", "did you mean 'digits'", "allowed: "]),
    "no recipe": ([], ["--recipe or --config"]),
    "unknown option": (["--recipe", "digits", "--attack.stepz", "3"], ["--attack.stepz", "'attack.steps'"]),
    "unknown objective": (["--recipe", "digits", "--objective.name", "trade"], ["objective.name", "'trade'", "trades"]),
    "negative eps": (["--recipe", "digits", "--attack.eps", "-8/255"], ["attack.eps", "-0.03", "0 or more"]),
    "eps of 255": (["--recipe", "digits", "--attack.eps", "8"], ["attack.eps", "8.0", "did you mean 8/255?"]),
    "step of 255": (["--recipe", "digits", "--attack.step_size", "2"], ["attack.step_size", "did you mean 2/255?"]),
    "measured eps of 255": (["--recipe", "digits", "--evaluate.eps", "4"], ["evaluate.eps", "did you mean 4/255?"]),
    "measured step of 255": (
        ["--recipe=digits", "--attack.norm=l2", "--evaluate.norm=linf", "--evaluate.eps=0.1", "--evaluate.step_size=2"],
        ["evaluate.step_size", "did you mean 2/255?"],
    ),
    "no radius": (["--recipe", "digits", "--attack.eps", "8000"], ["attack.eps", "8000.0; allowed: at most 1:"]),
    "mean of 255": (
        ["--recipe", "digits", "--model.mean", "33.3", "--model.std", "0.3"],
        ["model.mean", "[33.3]", "did you mean 33.3/255?"],
    ),
    "std of 255": (
        ["--recipe", "digits", "--model.mean", "0.5,0.5,0.4", "--model.std", "58.4,57.1,57.4"],
        ["model.std", "did you mean 58.4/255, 57.1/255, 57.4/255?"],
    ),
    "mean below 0": (["--recipe", "digits", "--model.mean", "-0.1", "--model.std", "0.3"], ["model.mean", "0 to 1"]),
    "no std": (["--recipe", "digits", "--model.mean", "0.1", "--model.std", "0"], ["model.std", "above 0 to 1"]),
    "no steps": (["--recipe", "digits", "--attack.steps", "0"], ["attack.steps", "0", "1 or more"]),
    "steps no number": (["--recipe", "digits", "--attack.steps", "ten"], ["attack.steps", "'ten'", "whole number"]),
    "steps half": (["--recipe", "digits", "--attack.steps", "1.5"], ["attack.steps", "'1.5'", "whole number"]),
    "eps 1/0": (["--recipe", "digits", "--attack.eps", "1/0"], ["attack.eps", "'1/0'", "fraction"]),
    "alpha": (["--recipe", "digits", "--objective.robust_alpha", "1.5"], ["objective.robust_alpha", "1.5", "0 to 1"]),
    "temperature": (["--recipe", "digits", "--objective.temperature", "0"], ["objective.temperature", "above 0"]),
    "batch": (["--recipe", "digits", "--data.batch_size", "5000"], ["data.batch_size", "5000", "1297"]),
    "choice": (["--recipe", "digits", "--attack.norm", "l1"], ["attack.norm", "'l1'", "linf, l2"]),
    "loss of another": (
        ["--recipe", "digits", "--objective.name", "madry", "--attack.loss", "kl"],
        ["attack.loss", "'kl'", "madry", "ce"],
    ),
    "no teacher": (
        ["--recipe", "digits", "--objective.name", "rslad"],
        ["model.teacher_weights", "None", "rslad", "robust.safetensors"],
    ),
    "teacher nowhere": (
        ["--recipe", "digits", "--objective.name", "rslad", "--model.teacher_weights", "nowhere.safetensors"],
        ["'nowhere.safetensors'", "not plain weights"],
    ),
    "nothing to smooth": (
        ["--recipe", "digits", "--objective.name", "rslad", "--objective.label_smoothing", "0.1"],
        ["objective.label_smoothing", "0.1", "rslad"],
    ),
    "all smoothed": (["--recipe", "digits", "--objective.label_smoothing", "1"], ["objective.label_smoothing", "1.0"]),
    "awp in parts": (
        ["--recipe", "digits", "--objective.awp_gamma", "0.01", "--train.accumulate", "2"],
        ["objective.awp_gamma", "0.01", "train.accumulate"],
    ),
    "awp float16": (
        ["--recipe", "digits", "--objective.awp_gamma", "0.01", "--train.precision", "float16"],
        ["objective.awp_gamma", "train.precision float16"],
    ),
    "classes": (["--recipe", "digits", "--model.num_classes", "3"], ["model.num_classes", "3", "10"]),
    "unknown model": (["--recipe", "digits", "--model.name", "smal_cnn"], ["model.name", "'small_cnn'"]),
    "unknown natural model": (
        ["--recipe", "digits", "--model.natural_name", "cifar_resnet81"],
        ["model.natural_name", "'cifar_resnet81'", "'cifar_resnet18'"],
    ),
    "unknown option of a model": (
        ["--recipe", "digits", "--model.options", "{width: 3}"],
        ["model.options.width", "3", "small_cnn: none"],
    ),
    "options no mapping": (["--recipe", "digits", "--model.options", "3"], ["--model.options", "'3'", "a mapping"]),
    "options no YAML": (["--recipe", "digits", "--model.options", "{a: ["], ["--model.options", "not valid YAML"]),
    "no such file of models": (
        ["--recipe", "digits", "--model.name", "nowhere.nets:Net"],
        ["model.name", "'nowhere.nets:Net'", "no module 'nowhere.nets'"],
    ),
    "new head of nothing": (["--recipe", "digits", "--model.head", "new"], ["model.head", "'new'", "keep"]),
    "pretrained what": (["--recipe", "digits", "--model.pretrained"], ["model.pretrained", "timm", "small_cnn"]),
    "byte with mean": (
        ["--recipe", "digits", "--model.input", "byte", "--model.mean", "0.5", "--model.std", "0.5"],
        ["model.input", "'byte'", "divided by 255"],
    ),
    "unknown data": (["--recipe", "digits", "--data.name", "digit"], ["data.name", "'digits'"]),
    "missing value": (["--recipe", "digits", "--attack.steps"], ["--attack.steps", "value is missing"]),
    "stray word": (["--recipe", "digits", "fast"], ["unexpected argument 'fast'"]),
    "no output": (["--recipe", "digits"], ["--output"]),
    "progress": (["--recipe", "digits", "--train.progress", "dots"], ["train.progress", "auto, bar, lines, none"]),
    "bool": (["--recipe", "digits", "--train.seed", "-1"], ["train.seed", "-1", "0 to"]),
    "missing file": (["--config", "nowhere.yaml"], ["--config", "nowhere.yaml", "No such file"]),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake(case, tmp_path, capsys):
    arguments, expected = CASES[case]
    output = [] if case == "no output" else ["--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as exit_:
        train.main([*arguments, *output])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    for part in expected:
        assert part in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("atack: {steps: 3}", ["atack", "'attack'"]),
        ("attack: {step: 3}", ["attack.step", "'attack.steps'"]),
        ("attack: 3", ["attack", "3", "steps"]),
        ("attack: {steps: [3", ["not valid YAML"]),
        ("- 3", ["list"]),
        ("optim: {milestones: [5, 3]}", ["optim.milestones", "[5, 3]"]),
        ("train: {precision: 16}", ["train.precision", "16", "bfloat16"]),
        ("objective: {name: yes}", ["objective.name", "True", "text"]),
    ],
)
def test_mistake_in_yaml(text, expected, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        train.main(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in expected:
        assert part in error
    assert not (tmp_path / "run").exists()


def test_output_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        train.main(["--recipe", "digits", "--output", str(tmp_path / "file" / "run")])
    assert exit_.value.code == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemExit) as exit_:
        train.main(["--recipe", "digits", "--output", str(tmp_path / "run")])
    assert exit_.value.code == 2
    assert "Permission denied" in capsys.readouterr().err


def test_output_that_holds_something_else(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(SystemExit) as exit_:
        train.main(["--recipe", "digits", "--output", str(tmp_path)])
    assert exit_.value.code == 2
    assert "holds files, but no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


EVALUATE = {
    "loss": (["--loss", "dl"], ["--loss", "'dl'", "ce, margin, dlr", "'dlr'"]),
    "targets": (["--targets", "10"], ["evaluate.targets", "10", "0 to 9"]),
    "norm": (["--norm", "l2"], ["evaluate.eps", "l2", "attack.eps"]),
    "eps of 255": (["--eps", "8"], ["evaluate.eps", "8.0", "did you mean 8/255?"]),
    "step of 255": (["--step-size", "2"], ["evaluate.step_size", "2.0", "did you mean 2/255?"]),
    "images": (["--images", "0"], ["evaluate.images", "0", "1 or more"]),
    "version": (["--attack", "autoattack", "--version", "fast"], ["--version", "'fast'", "standard, plus, rand"]),
    "source": (["--source", "nowhere"], ["'nowhere'", "is no run"]),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of one step, exported and not evaluated."""
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    words = ["--recipe", "digits", "--train.max_steps", "1", "--attack.steps", "1", "--evaluate.attack", "none"]
    assert train.main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("case", EVALUATE)
def test_mistake_in_evaluating(case, run_folder, capsys):
    arguments, expected = EVALUATE[case]
    before = {path: path.stat().st_mtime for path in run_folder.iterdir()}
    with pytest.raises(SystemExit) as exit_:
        evaluate.main([str(run_folder), "--attack", "pgd", *arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in expected:
        assert part in error
    assert {path: path.stat().st_mtime for path in run_folder.iterdir()} == before


def test_weight_perturbation_of_sharded_weights_is_refused():
    settings = {"objective": {"awp_gamma": 0.01}, "parallel": {"strategy": "deepspeed"}}
    world = World(0, 1, torch.device("cpu"), 60.0)
    with pytest.raises(ValueError, match=r"objective\.awp_gamma: got 0\.01; allowed: 0 with parallel\.strategy deep"):
        resolve(from_mapping(settings), build_objective("act"), world, 10)


def test_evaluating_what_is_no_run(tmp_path, capsys):
    for arguments, part in (([str(tmp_path)], "is no run"), ([], "RUN")):
        with pytest.raises(SystemExit) as exit_:
            evaluate.main(arguments)
        assert exit_.value.code == 2
        assert part in capsys.readouterr().err
