"""A run tells each tracker the same; nothing is imported that was not asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from act_engine.config import from_mapping
from act_engine.training.trackers import PACKAGES, check_tracker, open_tracker
from act_engine.training.trainer import Trainer

EVALUATION = {"models": {"robust": {"clean_accuracy": 0.5, "robust_accuracy": 0.25, "transfer_accuracy": None}}}


@pytest.fixture
def tiny(tiny_config):
    tiny_config["evaluate"] |= {"images": 20, "steps": 1, "restarts": 1}
    tiny_config["train"] |= {"max_steps": 2}
    return tiny_config


def test_none_writes_nothing_and_imports_nothing(tiny, tmp_path: Path):
    tiny["train"]["tracker"] = "none"
    assert Trainer(from_mapping(tiny), tmp_path / "run").run() == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    code = "import sys, act_engine.training.trackers as t; print([p for p in t.PACKAGES.values() if p in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "wandb", "no_such_package")
    with pytest.raises(ValueError, match=r"train\.tracker: got 'wandb', which is not installed; pip install"):
        check_tracker("wandb")
    check_tracker("none")


def describe(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text("attack: {steps: 7}\n")


def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    describe(tmp_path / "run")
    for step in (1, 2):  # the second start goes on with the first one's run
        tracker = open_tracker("mlflow", tmp_path / "run")
        tracker.describe(tmp_path / "run")
        tracker.write({"step": step, "epoch": 0, "robust_loss": 1 / step})
        tracker.write_evaluation(EVALUATION, step)
        tracker.close()
    client = mlflow.MlflowClient((tmp_path / "run" / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("act_engine").experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss/robust")] == [(1, 1), (2, 0.5)]
    assert run.data.metrics["accuracy/test_robust/robust"] == 0.25
    assert "accuracy/test_transfer/robust" not in run.data.metrics
    assert run.data.tags["config"] == "attack: {steps: 7}\n"


def test_wandb_offline(tmp_path: Path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    describe(tmp_path / "run")
    tracker = open_tracker("wandb", tmp_path / "run")
    tracker.describe(tmp_path / "run")
    tracker.write({"step": 3, "epoch": 0, "robust_loss": 0.5})
    tracker.write_evaluation(EVALUATION, 3)
    summary, config = dict(tracker._run.summary), dict(tracker._run.config)
    tracker.close()
    wandb.teardown()  # its service, which writes the file, has ended
    assert summary["accuracy/test_robust/robust"] == 0.25
    assert json.loads(json.dumps(config))["config"] == "attack: {steps: 7}\n"
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert b"loss/robust" in file.read_bytes()
