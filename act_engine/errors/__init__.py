"""What a wrong setting is met with: one line that names it, its value and what is allowed."""

import difflib
import reprlib
from collections.abc import Sequence


class ProcessLost(RuntimeError):
    """A collective failed because another process died or hung; the message names it where that could be found out."""


def require(condition: bool, setting: str, value: object, allowed: str) -> None:
    """Raise the ValueError that says so, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{setting}: got {shown(value)}; allowed: {allowed}")


def shown(value: object) -> str:
    """A value as messages show it: on one line, of at most some hundred characters."""
    words = reprlib.Repr()
    words.maxdict = words.maxlist = words.maxtuple = words.maxset = 20
    words.maxstring = words.maxother = words.maxlong = 200
    return " ".join(words.repr(value).split())


def require_pixels(setting: str, value: float, norm: str) -> None:
    """Refuse a radius or step of a linf attack that is longer than the whole range of pixels, [0, 1]."""
    require(norm != "linf" or value <= 1, setting, value, f"at most 1: images are in [0, 1]{in_255ths(value)}")


def in_255ths(*values: float) -> str:
    """``; did you mean 8/255?`` for values that are meant in units of 0 to 255."""
    return f"; did you mean {', '.join(f'{value:g}/255' for value in values)}?" if max(values) <= 255 else ""


def nearest(name: str, known: Sequence[str], *, most: int = 1) -> str:
    """``; did you mean 'a' or 'b'?`` for the closest known names, `most` of them; nothing if none is close."""
    close = difflib.get_close_matches(name, known, n=most)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
