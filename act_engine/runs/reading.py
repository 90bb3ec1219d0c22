"""One reader for each kind of the engine's own files, for files that were torn, edited, or never were ours."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

MOST_BYTES = 2**30


def read_json(path: Path, keys: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file that the engine wrote, with at least these keys.

    Raises:
        ValueError: it is not there, torn, or another file; one line, which names it.
    """
    text = _text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: not the JSON that the engine writes: {said}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got a JSON {type(content).__name__}; allowed: an object, as the engine writes it")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path}: got no {missing[0]!r}; allowed: the file as the engine wrote it")
    return content


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl that are whole; torn lines, of a run that was killed, are passed over.

    Raises:
        ValueError: the file cannot be read; one line, which names it.
    """
    return [record for line in _text(path).split("\n") if (record := _record(line)) is not None]


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    numbers = all(isinstance(value, int | float | None) and not isinstance(value, bool) for value in record.values())
    return record if numbers else None


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: got no regular file; allowed: the file as the engine wrote it")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{path}: got {size:,} bytes; allowed: {MOST_BYTES:,} or fewer")
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
