"""A run's folder: which files it holds, when it may be gone on with, and how a finished run is read back."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from act_engine.config import Config, from_mapping, read_yaml, to_mapping
from act_engine.runs.lock import LOCK, Lock
from act_engine.runs.reading import read_json
from act_engine.runs.writing import is_leftover, whole_file

CONFIG, ENVIRONMENT, EVALUATION = "config.yaml", "environment.json", "evaluation.json"
DATA = "data.json"
MEASURED = "measured"
"""Folder of what an evaluation has done so far, batch by batch."""
LAST = "last."
"""Before the name of a model whose weights are the last ones, in a run that exports the best."""
METRICS, PROFILE = "metrics.jsonl", "profile.json"

# What may differ between a run and its continuation: none of it changes a step already taken or still to come.
# The processes may be others too: a checkpoint holds for any, and refuses another global batch by itself.
FREE = (
    "train.max_steps",
    "train.log_every",
    "train.progress",
    "train.tracker",
    "train.accumulate",
    "data.batch_size",
    "data.workers",
    "data.path",  # the data itself is told apart, wherever it lies
    "data.index",
    "data.download",
    "parallel.",
    "checkpoint.",
    "evaluate.",
)
ENDLESS = ("constant", "multistep")  # schedules whose rate does not depend on train.epochs, which is then free too


def evaluation_file(checkpoint: str) -> str:
    """The name of the file that an evaluation of these weights goes into: of best, last or step-N."""
    return EVALUATION if checkpoint == "best" else EVALUATION.replace(".json", f".{checkpoint}.json")


def check_output(setting: str, folder: Path, files: Collection[str] = ()) -> None:
    """Refuse a folder that cannot be made or written into, before the work whose results go there; nothing is made.

    Args:
        setting: the option that names the folder.
        files: names of files that are to be written into it.

    Raises:
        ValueError: the path, or a part of it, is no folder or must not be written, or a folder is in a file's place.
    """
    got = f"{setting}: got {str(folder)!r}; allowed: a folder that can be made and written"
    path = folder.absolute()
    nearest = next(p for p in (path, *path.parents) if p.exists() or p.is_symlink())
    if not nearest.is_dir():
        raise ValueError(f"{got}, but {str(nearest)!r} is no folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{got}, but {str(nearest)!r}: Permission denied")
    for file in files:
        if (folder / file).is_dir():
            raise ValueError(f"{got}, but {str(folder / file)!r}, which is to be a file, is a folder")


def check_run(folder: Path, config: Config) -> None:
    """Refuse a folder that holds anything but the run that this config goes on with; nothing is written.

    Raises:
        ValueError: it holds a run with other settings, or files that are no run.
    """
    if (folder / CONFIG).exists():
        difference = _difference(to_mapping(read_config(folder)), to_mapping(config))
        if difference:
            raise ValueError(
                f"--output: {str(folder)!r} holds a run with other settings ({difference}); choose another folder"
            )
    elif folder.exists() and not all(file.name == LOCK or is_leftover(file) for file in folder.iterdir()):
        raise ValueError(f"--output: {str(folder)!r} holds files, but no run; choose a new or empty folder")


def open_run(folder: Path, config: Config, environment: dict[str, Any], data: dict[str, Any]) -> Lock:
    """Make the folder, which `check_run` found fit, or refresh what it says about the run; returns its lock.

    Raises:
        ValueError: another process writes there.
        OSError: it cannot be written.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = Lock(folder)
        write_text(folder / CONFIG, yaml.safe_dump(to_mapping(config), sort_keys=False))
        write_json(folder / ENVIRONMENT, environment)
        write_json(folder / DATA, data)
    except OSError:
        if lock is not None:
            lock.release()
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return lock


def read_config(folder: Path) -> Config:
    """The resolved config of the run in `folder`; ValueError if there is no run."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{str(folder)!r} is no run: it has no {CONFIG}; give the --output of a training run")
    return from_mapping(read_yaml(folder / CONFIG))


def measured_once(path: Path, key: dict[str, Any], measure: Callable[[], Any]) -> Any:
    """The JSON value that `measure` gave for this `key`: out of `path` if it holds that one, or else written there."""
    key = json.loads(json.dumps(key))  # as it will be read back
    if path.exists():
        try:
            kept = read_json(path, ("of", "measured"))
        except ValueError:  # torn, or none of ours: it is measured anew
            kept = {"of": None}
        if kept["of"] == key:
            return kept["measured"]
    value = json.loads(json.dumps(measure()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"of": key, "measured": value})
    return value


def digest(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; OSError says which and why."""
    with whole_file(path) as partial:
        partial.write_text(text, "utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; OSError says which and why."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    endless = new["optim"]["schedule"] in ENDLESS
    free = (*FREE, "train.epochs") if endless else FREE
    for group, values in new.items():
        for name, value in values.items():
            setting = f"{group}.{name}"
            if old[group].get(name) != value and not setting.startswith(free):
                return f"{setting}: {old[group].get(name)} there, {value} here"
    return ""
