"""Keyword arguments of an architecture: known ones alone, and one line for those that it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from act_engine.errors import nearest


def check_options(name: str, options: Mapping[str, Any], known: Sequence[str], *, open_ended: bool = False) -> None:
    """Refuse what is not among `known`, unless the architecture takes any; ValueError with the nearest name."""
    for option, value in options.items():
        if option not in known and not open_ended:
            allowed = ", ".join(known) or "none"
            raise ValueError(
                f"model.options.{option}: got {value!r}; allowed with {name}: {allowed}{nearest(option, known, most=3)}"
            )


@contextmanager
def refused(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what an architecture's constructor raises, with these options, into one line."""
    try:
        yield
    except Exception as error:  # a constructor may raise anything
        if isinstance(error, ValueError) and str(error).startswith("model."):
            raise
        what = f"model.options: got {dict(options)}; {name} refuses them" if options else f"model.name: got {name!r}"
        raise ValueError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An exception's kind and message, on one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
