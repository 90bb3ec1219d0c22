"""Reading files that anybody may have made: only one line that names the file ever comes out of a parser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BadFile(ValueError):
    """Why a file of the user's cannot be read; one line that names the setting and the file."""


@contextmanager
def parsing(name: str | Path, problem: str, advice: str = "", setting: str = "data.path") -> Iterator[None]:
    """Turn whatever a parser raises on strange bytes into the line `setting: NAME PROBLEM (why)ADVICE`.

    A parser may raise anything on bytes that were never meant for it; `BadFile` is a line already and passes.
    """
    try:
        yield
    except BadFile:
        raise
    except PermissionError:
        raise BadFile(f"{setting}: no permission to read {name}; change its mode or owner") from None
    except Exception as error:
        raise BadFile(f"{setting}: {name} {problem} ({one_line(error)}){advice}") from None


def one_line(error: object, limit: int = 120) -> str:
    """What an error says, on one line of at most `limit` characters."""
    text = " ".join(str(error).split())
    if isinstance(error, Exception) and not (text and isinstance(error, ValueError | OSError | RuntimeError)):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def expanded(path: str | None) -> str | None:
    """A path as the user means it: ~ is the home folder, $NAME an environment variable.

    Raises:
        ValueError: a variable is not set, or the path holds a NUL.
    """
    if path is None:
        return None
    full = os.path.expanduser(os.path.expandvars(path))
    if "$" in full and not os.path.exists(full):
        raise ValueError(f"data.path: got {path!r}, in which a $NAME is not set; allowed: variables of the environment")
    if "\0" in full:
        raise ValueError(f"data.path: got {path!r}; allowed: a path, which holds no NUL")
    return full
