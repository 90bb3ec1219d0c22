"""What a wrong setting is met with: one line that names it, its value and what is allowed."""

import difflib
from collections.abc import Sequence


def require(condition: bool, setting: str, value: object, allowed: str) -> None:
    """Raise the ValueError that says so, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{setting}: got {value!r}; allowed: {allowed}")


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean '…'?`` for the closest of the known names, or nothing if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
