"""Runs that are stopped, killed, starved of disk or fed NaN: what they say, what they leave, and that they go on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("deepspeed")

NO_SPACE = r"error: checkpoint step-{step} could not be written: \S+ could not be written: \[Errno 28\] No space left"
WORKERS = Path(__file__).with_name("faults.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKERS), str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def outcomes(folder):
    return json.loads((folder / "outcomes.json").read_text())


def weights(folder, name):
    return {model: load_file(folder / name / "run" / f"{model}.safetensors") for model in ("robust", "natural")}


def largest_difference(folder, name, other):
    expected = weights(folder, other)
    return max(
        (value.double() - expected[model][key].double()).abs().max().item()
        for model, state in weights(folder, name).items()
        for key, value in state.items()
    )


def test_an_undisturbed_run_is_written_and_told_by_rank_0_alone(outcomes, folder):
    assert outcomes["whole"]["codes"] == [0, 0]
    assert outcomes["whole"]["out"][1] == ""
    assert "run folder" in outcomes["whole"]["out"][0]
    steps = [json.loads(line)["step"] for line in (folder / "whole" / "run" / "metrics.jsonl").open()]
    assert steps == list(range(1, 11))
    assert json.loads((folder / "whole" / "run" / "evaluation.json").read_text())["samples"] == 500


def test_sigterm_on_one_rank_stops_all_after_the_same_step(outcomes, folder):
    stopped = outcomes["terminated"]
    assert stopped["codes"] == [128 + signal.SIGTERM] * 2
    assert "stopped by SIGTERM after step 6" in stopped["out"][0] + stopped["err"][0]
    assert stopped["saved"][-1] == 6
    assert not stopped["exported"]
    assert "going on after step 6" in outcomes["terminated-again"]["out"][0]
    assert largest_difference(folder, "terminated", "whole") == 0


def test_a_killed_rank_is_named_by_the_survivor_and_the_run_goes_on(outcomes, folder):
    killed = outcomes["killed"]
    assert killed["codes"] == [1, -signal.SIGKILL]
    assert "error: rank 0: another process died or hung (no sign of life from rank 1)" in killed["err"][0]
    assert "going on after step 6" in outcomes["killed-again"]["out"][0]
    assert largest_difference(folder, "killed", "whole") == 0


def test_a_hanging_rank_is_cut_by_the_timeout_and_named(outcomes):
    hung = outcomes["hung"]
    assert hung["codes"][0] == 1
    assert "error: rank 0: another process died or hung (no sign of life from rank 1)" in hung["err"][0]
    assert hung["saved"] == [3]


def test_a_non_finite_loss_on_one_rank_stops_all(outcomes):
    poisoned = outcomes["poisoned"]
    assert poisoned["codes"] == [1, 1]
    assert "error: step 5 on rank 1: robust loss nan" in poisoned["err"][0]
    assert "error" not in poisoned["err"][1]
    assert poisoned["saved"] == [3]


def test_a_full_disk_stops_all_and_leaves_the_older_checkpoint(outcomes, folder):
    full = outcomes["full"]
    assert full["codes"] == [1, 1]
    assert re.search(NO_SPACE.format(step=6), full["err"][0])
    assert full["saved"] == [3]
    assert outcomes["full-again"]["codes"] == [0, 0]
    assert largest_difference(folder, "full", "whole") == 0


def test_a_full_disk_at_the_last_checkpoint_exports_nothing(outcomes):
    full = outcomes["full-last"]
    assert full["codes"] == [1, 1]
    assert re.search(NO_SPACE.format(step=10), full["err"][0])
    assert (full["saved"], full["exported"]) == ([6, 9], False)


def test_a_full_disk_may_be_gone_on_from(outcomes):
    continued = outcomes["full-continued"]
    assert "warning: checkpoint step-6 could not be written" in continued["out"][0] + continued["err"][0]
    assert continued["saved"] == [3]
    steps = "could not be written"
    assert (continued["out"][0] + continued["err"][0]).count(steps) >= 2


def test_a_users_mistake_is_told_once(outcomes, folder):
    assert outcomes["mistaken"]["codes"] == [2, 2]
    assert outcomes["mistaken"]["err"][0].count("error: model.name") == 1
    assert outcomes["mistaken"]["err"][1] == ""
    assert not (folder / "mistaken" / "run").exists()


@pytest.mark.parametrize(("name", "reference"), [("kills-1", "whole-1"), ("kills-2", "whole")])
def test_killed_at_twenty_points_a_run_comes_to_the_same_bits(outcomes, folder, name, reference):
    """Points of steps and of checkpoint writes, of either rank; one checkpoint is kept, so each counts."""
    assert outcomes[name]["deaths"] == 20
    assert set(outcomes[name]["codes"]) == {0}
    assert largest_difference(folder, name, reference) == 0


def test_a_killed_zero_run_comes_to_the_same_weights(outcomes, folder):
    assert outcomes["kills-zero"]["deaths"] == 20
    assert set(outcomes["kills-zero"]["codes"]) == {0}
    assert largest_difference(folder, "kills-zero", "whole-zero") <= 1e-6


def torchrun(tmp_path, disturb: str, *options: str) -> subprocess.CompletedProcess:
    """Train in two processes by the real launcher; `disturb` is run in each before its first step."""
    script = tmp_path / "command.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(WORKERS.parent)!r})\nimport faults\n{disturb}\n"
        "raise SystemExit(faults.train.main())\n"
    )
    from faults import SETTINGS

    words = [word for pair in SETTINGS.items() for word in pair]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options]
    return subprocess.run(
        [*command, str(script), *words, "--output", str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_same_weights(run, whole):
    for model, state in whole.items():
        resumed = load_file(run / f"{model}.safetensors")
        assert all(torch.equal(resumed[key], value) for key, value in state.items())


def test_torchrun_restarts_a_run_whose_rank_died(folder, tmp_path):
    """The launcher ends the survivors, who say which rank it was, and starts all of them again."""
    disturb = "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': faults.at(7, 1, faults.raise_signal(9))()"
    result = torchrun(tmp_path, disturb, "--max-restarts", "1")
    assert result.returncode == 0, result.stderr[-5000:]
    assert "error: rank 0: another process died or hung (no sign of life from rank 1)" in result.stderr
    assert "going on after step 6" in result.stdout
    assert_same_weights(tmp_path / "run", weights(folder, "whole"))


def test_sigterm_to_torchrun_ends_a_run_that_goes_on_later(folder, tmp_path):
    """As a scheduler stops a job: with a checkpoint of the step under way, before torchrun's own patience, 30 s, ends
    (then it kills, and nobody says by what the run was stopped)."""
    result = torchrun(tmp_path, "faults.at(4, 1, lambda *batch: os.kill(os.getppid(), 15))()")
    assert result.returncode != 0
    stopped = re.search(r"stopped by SIGTERM after step (\d+)", result.stdout + result.stderr)
    assert stopped, result.stderr[-5000:]
    result = torchrun(tmp_path, "")
    assert result.returncode == 0, result.stderr[-5000:]
    assert f"going on after step {stopped[1]}" in result.stdout
    assert_same_weights(tmp_path / "run", weights(folder, "whole"))
