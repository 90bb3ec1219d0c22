"""A run's data.json: which images it was trained and measured on, to be found again wherever they lie."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from act_engine.data import Data, identity, require_same
from act_engine.runs.folder import DATA
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
