"""The planner: what it counts against what can be worked out by hand, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from act_engine import plan
from act_engine.config import from_mapping
from act_engine.data import sources
from act_engine.models import build_model
from act_engine.objectives import build_objective, objectives
from act_engine.planning.dry_run import measure_step
from act_engine.planning.memory import training_memory
from act_engine.planning.plan import plan as plan_text

INPUTS, HIDDEN, CLASSES = 12, 20, 5


def perceptron(name: str = "") -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


FORWARD = 2 * (INPUTS * HIDDEN + HIDDEN * CLASSES)  # FLOP
TRAIN = 2 * FORWARD + 2 * HIDDEN * CLASSES  # the images need no gradient in training
ATTACK = 2 * FORWARD
PASSES = {  # training passes of each model, clean forwards for the attack's target, a frozen teacher's forwards
    "natural": ({"natural": 1}, 0, 0),
    "madry": ({"robust": 1}, 0, 0),
    "act": ({"robust": 1, "natural": 1}, 0, 0),
    "trades": ({"robust": 2}, 1, 0),
    "mart": ({"robust": 2}, 0, 0),
    "lbgat": ({"robust": 2, "natural": 1}, 1, 0),
    "rslad": ({"robust": 2}, 0, 1),
}


@pytest.mark.parametrize("name", objectives())
def test_arithmetic_and_passes_are_those_worked_out_by_hand(name: str):
    step = measure_step(build_objective(name), perceptron, (3, 2, 2))
    passes, clean, teacher = PASSES[name]
    assert (step.train_passes, step.clean_passes) == (passes, clean)
    weights = INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES
    assert step.parameters == dict.fromkeys(passes, weights)
    assert step.train_flops == sum(passes.values()) * TRAIN + (clean + teacher) * FORWARD
    assert step.attack_flops == (0 if name == "natural" else ATTACK)


def test_activations_are_those_that_autograd_keeps():
    """One pass keeps the images, the ReLU's output and the logits' softmax; two models share the images only."""
    madry = measure_step(build_objective("madry"), perceptron, (3, 2, 2))
    assert madry.activation_bytes == 4 * (INPUTS + HIDDEN + CLASSES) + 8  # the labels are int64
    assert madry.fixed_bytes < 100
    act = measure_step(build_objective("act"), perceptron, (3, 2, 2))
    assert act.activation_bytes >= 4 * 2 * (INPUTS + HIDDEN + CLASSES)


@pytest.mark.parametrize("name", sources())
def test_every_data_set_can_be_planned_for(name: str, tmp_path: Path):
    """By what its source says of itself, or by what it holds."""
    config = {"model": {"name": "small_cnn"}, "data": {"name": name}}
    if sources()[name].usual is None:
        images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 3
        np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        config["data"]["path"] = str(tmp_path / "a.npz")
    planned = plan_text(from_mapping(config), gpus=[1], images=None, images_per_second=None)
    assert planned.startswith(f"act on {name}, pictures ")
    assert f"epochs of {6 if name == 'npz' else sources()[name].usual.images:,} images" in planned


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_dry_run_keeps_what_a_real_pass_keeps(autocast: torch.dtype | None):
    """The same count on real tensors, batch 8, for a network with convolutions and BatchNorm."""
    from act_engine.models import build_model

    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    step = measure_step(
        build_objective("natural"),
        lambda name: build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)),
        (1, 8, 8),
        autocast=autocast,
    )
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            logits = model(torch.rand(8, 1, 8, 8)).float()
        nn.functional.cross_entropy(logits, torch.zeros(8, dtype=torch.int64))
    assert step.fixed_bytes + 8 * step.activation_bytes == pytest.approx(sum(kept.values()), rel=0.02)


def rows(text: str, title: str) -> list[list[str]]:
    """The table whose heading holds `title`, cell by cell."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if title in line) + 1
    return [line.replace(" *", "*").split() for line in lines[first:] if line.startswith("  ")]


def test_the_command_prints_memory_and_cost(capsys: pytest.CaptureFixture[str]):
    words = ["--recipe", "digits", "--gpus", "1,4", "--images-per-second", "100", "--train.epochs", "10"]
    assert plan.main(words) == 0
    text = capsys.readouterr().out
    assert "robust model: small_cnn, 0.06 M parameters" in text
    assert "10 forward and 10 input-gradient passes" in text
    strategies = [tuple(row[:2]) for row in rows(text, "strategy") if row[0] in ("whole", "ZeRO")]
    assert strategies[:2] == [("whole", "1"), ("whole", "4")]
    own = next(row for row in rows(text, "attack steps") if row[0] == "10*")
    assert own[2] == "1.00"
    assert float(own[3]) == round(1297 * 10 / 100 / 3600, 1)
    assert float(own[5]) == round(1297 * 10 / 100 / 3600 / 4, 2)


def test_memory_is_what_the_model_of_memory_says(capsys: pytest.CaptureFixture[str]):
    """Of both models; what real ranks take is held against that model in tests/parallel."""
    words = ["--recipe", "cifar10_wrn28_10", "--gpus", "1,8", "--optim.name", "adamw", "--model.name", "cifar_wrn10_10"]
    plan.main(words)
    table = {
        (row[0] if row[0] == "whole" else " ".join(row[:2]), row[-7]): [float(cell) for cell in row[-6:]]
        for row in rows(capsys.readouterr().out, "strategy")
        if row[0] in ("whole", "ZeRO")
    }
    assert len(table) == 5
    sizes = [p.numel() for p in build_model("cifar_wrn10_10", num_classes=10, image_shape=(3, 32, 32)).parameters()]
    for (strategy, count), (weights, gradients, optimizer, buckets, activations, total) in table.items():
        stage = 0 if strategy == "whole" else int(strategy[-1])
        kind = "deepspeed" if stage else "ddp"
        one = training_memory(sizes, kind, int(count), zero_stage=stage, state_tensors=2)
        expected = [2 * part / 2**30 for part in (one.parameters, one.gradients, one.optimizer, one.buffers)]
        assert [weights, gradients, optimizer, buckets] == pytest.approx(expected, abs=0.006)
        assert total == pytest.approx(weights + gradients + optimizer + buckets + activations, abs=0.031)
    assert table["ZeRO 3", "8"][0] >= table["whole", "8"][0]  # a pass gathers a model that fits, beside the shard


def test_the_speed_of_a_run_is_its_median(tmp_path, capsys: pytest.CaptureFixture[str]):
    records = [{"step": step, "images_per_second": speed} for step, speed in enumerate((10, 200, 300))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    plan.main(["--recipe", "digits", "--measured", str(tmp_path)])
    assert "200 images a second and GPU at 10 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--recipe or --config: give exactly one"),
        (["--recipe", "digits", "--gpus", "0"], "--gpus: got [0]; allowed: numbers of 1 or more"),
        (["--recipe", "digits", "--images-per-second", "-3"], "--images-per-second: got -3.0; allowed: above 0"),
        (["--recipe", "digits", "--measured", "nowhere"], "--measured: nowhere holds no metrics.jsonl"),
        (["--recipe", "digits", "--measured", "x", "--images-per-second", "3"], "give at most one of the two"),
        (["--recipe", "digits", "--data.name", "npz"], "data.path: there is no file None; npz needs the path"),
        (["--recipe", "digits", "--model.name", "smal_cnn"], "model.name: unknown model 'smal_cnn'"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_:
        plan.main(words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
