"""Where a run's metrics are shown: TensorBoard, Weights & Biases or MLflow behind one small interface, or nowhere."""

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from act_engine.runs.folder import CONFIG, ENVIRONMENT
from act_engine.training.board import Board, final_scalars, tag

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "none": None}
PROJECT = "act_engine"


class Tracker(Protocol):
    """What a run tells; a class of this shape is all that another service needs."""

    def describe(self, folder: Path) -> None:
        """Show the run's settings and surroundings, as its folder has them."""

    def write(self, record: Mapping[str, float]) -> None:
        """Write one record; it has ``step`` and any other numbers."""

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        """Write the accuracies of each model that was measured, in [0, 1]."""

    def close(self) -> None:
        """Everything is written."""


def check_tracker(kind: str) -> None:
    """Refuse a tracker whose package is missing, before the run begins.

    Raises:
        ValueError: one line, with the command that mends it.
    """
    package = PACKAGES[kind]
    if package is not None and find_spec(package) is None:
        raise ValueError(f"train.tracker: got {kind!r}, which is not installed; pip install {package}, or use none")


def open_tracker(kind: str, folder: Path, purge_step: int | None = None) -> Tracker:
    """The tracker of the run in `folder`, which goes on with what it has written of that run before.

    Args:
        kind: the setting ``train.tracker``.
        folder: of the run.
        purge_step: records from this step on, left by an interrupted run, are hidden where that can be done.
    """
    if kind == "tensorboard":
        return Board(folder, purge_step)
    return {"wandb": WeightsAndBiases, "mlflow": MLflow, "none": NoTracker}[kind](folder)


class NoTracker:
    """Writes nothing."""

    def __init__(self, folder: Path) -> None:
        pass

    def describe(self, folder: Path) -> None:
        pass

    def write(self, record: Mapping[str, float]) -> None:
        pass

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        pass

    def close(self) -> None:
        pass


class WeightsAndBiases:
    """A run of the project ``act_engine``, its files in the run's folder; WANDB_MODE=offline sends nothing."""

    def __init__(self, folder: Path) -> None:
        import wandb

        same = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # one run however often it is started
        self._run = wandb.init(project=PROJECT, name=folder.name, id=same, resume="allow", dir=str(folder))

    def describe(self, folder: Path) -> None:
        self._run.config.update(_described(folder), allow_val_change=True)

    def write(self, record: Mapping[str, float]) -> None:
        values = {tag(name): value for name, value in record.items() if name not in ("step", "epoch")}
        self._run.log(values, step=int(record["step"]))

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        self._run.summary.update(final_scalars(evaluation))

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment ``act_engine``, at MLFLOW_TRACKING_URI or else in the folder's ``mlruns/``."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlruns").resolve().as_uri())
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = self._client.create_experiment(PROJECT) if found is None else found.experiment_id
        place = str(folder.resolve())
        runs = self._client.search_runs([experiment], f"tags.folder = '{place}'", max_results=1)
        new = {"run_name": folder.name, "tags": {"folder": place}}
        self._id = runs[0].info.run_id if runs else self._client.create_run(experiment, **new).info.run_id

    def describe(self, folder: Path) -> None:
        for name, text in _described(folder).items():
            self._client.set_tag(self._id, name, text[:5000])

    def write(self, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            if name not in ("step", "epoch"):
                self._client.log_metric(self._id, tag(name).replace(" ", "_"), value, step=int(record["step"]))

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        for name, value in final_scalars(evaluation).items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _described(folder: Path) -> dict[str, str]:
    files = {Path(name).stem: folder / name for name in (CONFIG, ENVIRONMENT)}
    return {name: file.read_text("utf-8") for name, file in files.items() if file.exists()}
