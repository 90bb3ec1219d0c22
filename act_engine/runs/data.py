"""A run's data.json: which images it was trained and measured on, to be found again wherever they lie."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from act_engine.data import Data, describe_data, identity, require_same
from act_engine.parallel import World
from act_engine.runs.folder import DATA, write_json
from act_engine.runs.reading import read_json


def read_data(folder: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """The content of data.json; empty where there is none, or, with a warning, where it is damaged."""
    file = folder / DATA
    if not file.exists():
        return {}
    try:
        content = read_json(file)
        for split, told in content.items():
            if not isinstance(told, dict) or not told.keys() >= {"images", "classes", "counts", "digest"}:
                raise ValueError(f"{file}: got no identity of the {split} images; allowed: the file as it was written")
    except ValueError as problem:
        warn(f"{problem}; the data is not compared with it")
        return {}
    return content


def describe_run(folder: Path, data: Data) -> dict[str, Any]:
    """The content of data.json for a run that begins, or goes on, in `folder`, which `check_data` found fit."""
    described, before = describe_data(data), read_data(folder, lambda message: None)
    for split, content in described.items():
        replaced = before.get(split, {}).get("replaced")
        if replaced:
            content["replaced"] = replaced
    return described


def note_replaced(folder: Path, data: Data, world: World, warn: Callable[[str], None]) -> None:
    """Add to data.json, under ``replaced``, the images of each split that were replaced by others, and why.

    A collective: every process knows of those that came into its hands. Earlier notes of the run stay.
    """
    recorded = read_data(folder, warn) if world.is_main else {}
    changed = False
    for split in ("train", "test", "selection"):
        own = getattr(getattr(data, split), "replaced", {})
        found = {name: why for text in world.texts(json.dumps(own)) for name, why in json.loads(text).items()}
        if found and split in recorded:
            known = recorded[split].setdefault("replaced", {})
            changed |= not found.keys() <= known.keys()
            known |= found
    if changed:
        write_json(folder / DATA, recorded)


def check_data(
    folder: Path, data: Data, *, splits: Sequence[str] = ("train", "test"), warn: Callable[[str], None]
) -> None:
    """Refuse data that is not what the run in `folder` was started on.

    Raises:
        ValueError: other classes, counts or content; one line.
    """
    recorded = read_data(folder, warn)
    for split in splits:
        if split in recorded:
            require_same(recorded[split], identity(getattr(data, split)), split, str(folder))
