"""The peers' drivers speak one protocol, and the engine's step passes for the plain one, as a wrong step does not."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from act_engine.models import build_model

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TASK = {"kind": "step", "name": "madry", "model": "small_cnn", "classes": 3, "threads": 1, "seed": 0, "eps": 0.1}
TASK |= {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "precision": "float32", "steps": 5, "step_size": 0.05}


@pytest.fixture(scope="module")
def environments():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("peers.environments")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=3, image_shape=(3, 8, 8))
    model(torch.rand(64, 3, 8, 8))  # statistics, so that eval mode is not far from train mode
    path = tmp_path_factory.mktemp("setting") / "setting.pt"
    content = {"weights": model.state_dict(), "images": torch.rand(64, 3, 8, 8), "labels": torch.arange(64) % 3}
    torch.save(content, path)
    return path


def conversation(environments, name: str, requests: list[dict]) -> list[dict]:
    process = environments.start(name)
    answers, _ = process.communicate("".join(json.dumps(request) + "\n" for request in requests))
    return [json.loads(line) for line in answers.splitlines()]


def updates(environments, name: str, file: Path, changes: list[dict]) -> list[torch.Tensor]:
    """How one step of each changed task moves the weights of convolutions and the head, as one vector."""
    requests, files = [], []
    for index, change in enumerate(changes):
        files.append(file.with_name(f"{name}-{index}.pt"))
        requests.append({"do": "prepare", "task": {**TASK, "file": str(file), **change}})
        requests.append({"do": "update", "file": str(files[-1])})
    answers = conversation(environments, name, [*requests, {"do": "run"}, {"do": "peak"}])
    *_, ran, peak = answers
    assert ran["seconds"] > 0
    assert ran["cpu_seconds"] > 0
    assert peak["peak_bytes"] >= 0
    before = torch.load(file)["weights"]
    names = [name for name in before if name.endswith("weight")]
    return [torch.cat([(torch.load(path)[k] - before[k]).flatten() for k in names]) for path in files]


def test_the_engine_makes_the_plain_step(environments, file):
    """Both from starts of their own: no further apart than two plain steps with other starts, by half of that."""
    plain, again, without_attack = updates(environments, "plain", file, [{}, {"seed": 1}, {"steps": 0}])
    (engine,) = updates(environments, "engine", file, [{}])
    bound = 1.5 * (again - plain).norm()
    assert (engine - plain).norm() <= bound < (without_attack - plain).norm()


def test_what_goes_wrong_is_said_in_one_line(environments, file):
    other = {**TASK, "file": str(file), "name": "none"}
    none, broken = conversation(environments, "plain", [{"do": "prepare", "task": task} for task in (other, {})])
    assert none["error"] == "has no step none"
    assert "KeyError" in broken["error"]
    assert "\n" not in broken["error"]


def test_a_peer_that_is_not_set_up_is_said_to_be(environments, monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    assert environments.why_missing("foolbox") == "not installed: make peers"
    assert environments.why_missing("engine") is None


def test_every_peer_has_pinned_versions_and_a_driver(environments):
    assert len(environments.PEERS) >= 6
    for name in environments.PEERS:
        assert (BENCHMARKS / "peers" / "drivers" / f"{name}.py").is_file()
        lines = (BENCHMARKS / "peers" / "requirements" / f"{name}.txt").read_text("utf-8").split("\n")
        assert all("==" in line or "@" in line for line in lines if line)
