"""How far a long piece of work has come: a bar on a terminal, lines in a file, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

Kind = Literal["auto", "bar", "lines", "none"]
KINDS = ("auto", "bar", "lines", "none")
EVERY = 10.0
"""Seconds between two lines, at least; the first line, the last, and one that matters more do not wait."""


class Progress:
    """Counts work that is done, and shows it in no way: what ``"none"`` gives, and the base of the other kinds.

    Args:
        total: how much work there is, `done` of it before this began.
        unit: what is counted, in the singular, such as ``"image"``; units: its plural; None: with an s.
        what: the work's name, such as ``"evaluating"``.
        rated: whether units a second are of interest; else the figures that `show` is given tell the speed.
    """

    def __init__(
        self, total: int, *, unit: str, what: str, units: str | None = None, done: int = 0, rated: bool = True
    ) -> None:
        self.total, self.unit, self.units, self.what, self.done = total, unit, units or f"{unit}s", what, done
        self.rated = rated
        self._began, self._done_before = time.monotonic(), done

    def advance(self, count: int = 1) -> None:
        """So many units more are done."""
        self.done += count

    def show(self, figures: Mapping[str, str], *, always: bool = False) -> None:
        """Show these figures by name, in the units' place among others; `always`: even right after the last ones."""

    def say(self, message: str) -> None:
        """Print a line on standard output, in order with what is shown."""
        print(message, flush=True)

    def heading(self, line: str) -> None:
        """Print a line where progress is shown, if it is."""

    def close(self) -> None:
        """Nothing more is shown."""

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take at the pace so far; None before any is done."""
        done = self.done - self._done_before
        return self.elapsed / done * max(self.total - self.done, 0) if done else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Bar(Progress):
    """A bar that is drawn anew in one line of a terminal."""

    def __init__(
        self, total: int, *, unit: str, what: str, units: str | None = None, done: int = 0, rated: bool = True
    ) -> None:
        from tqdm import tqdm

        super().__init__(total, unit=unit, what=what, units=units, done=done, rated=rated)
        self._bar = tqdm(total=total, initial=done, unit=unit, desc=what, dynamic_ncols=True, mininterval=0.5)

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        self._bar.update(count)

    def show(self, figures: Mapping[str, str], *, always: bool = False) -> None:
        self._bar.set_postfix(figures, refresh=False)

    def say(self, message: str) -> None:
        self._bar.write(message)

    def heading(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class Lines(Progress):
    """A line of standard error now and then: the time, how much is done, figures, the speed, the time that is left."""

    def __init__(
        self, total: int, *, unit: str, what: str, units: str | None = None, done: int = 0, rated: bool = True
    ) -> None:
        super().__init__(total, unit=unit, what=what, units=units, done=done, rated=rated)
        self._last: float | None = None if not rated else self._began
        self._figures: Mapping[str, str] = {}

    def advance(self, count: int = 1) -> None:
        super().advance(count)
        if self.rated and self._due():
            self._print()

    def show(self, figures: Mapping[str, str], *, always: bool = False) -> None:
        self._figures = figures
        if always or self._due():
            self._print()

    def heading(self, line: str) -> None:
        sys.stdout.flush()  # both may go to one file
        print(line, file=sys.stderr, flush=True)

    def _due(self) -> bool:
        return self._last is None or self.done >= self.total or time.monotonic() - self._last >= EVERY

    def _print(self) -> None:
        self._last = time.monotonic()
        parts = [f"{self.what} {self.done}/{self.total} {self.unit if self.total == 1 else self.units}"]
        parts += [f"{name} {value}" for name, value in self._figures.items()]
        if self.rated:
            speed = (self.done - self._done_before) / max(self.elapsed, 1e-9)
            slow = f"{1 / speed:.3g} s/{self.unit}" if speed else "?"
            parts.append(f"{_number(speed)} {self.units}/s" if speed >= 0.1 else slow)
        parts.append(f"ETA {duration(self.left)}" if self.done < self.total else f"took {duration(self.elapsed)}")
        self.heading(f"{time.strftime('%H:%M:%S')}  {'  '.join(parts)}")


def progress(
    kind: Kind | bool,
    total: int,
    *,
    unit: str,
    what: str,
    units: str | None = None,
    done: int = 0,
    rated: bool = True,
    shown: bool = True,
) -> Progress:
    """A `Progress` of that kind; auto (or true) is a bar where standard error is a terminal, and lines elsewhere.

    Args:
        shown: whether this is the process that shows it, of several.

    Raises:
        ValueError: there is no such kind.
    """
    name = {True: "auto", False: "none"}.get(kind, kind) if isinstance(kind, bool) else kind
    if name not in KINDS:
        raise ValueError(f"progress: got {kind!r}; allowed: {', '.join(KINDS)}")
    if name == "auto":
        name = "bar" if sys.stderr.isatty() else "lines"
    chosen: dict[str, Any] = {"bar": Bar, "lines": Lines, "none": Progress}
    return chosen[name if shown else "none"](total, unit=unit, what=what, units=units, done=done, rated=rated)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """``0:01:30``, with days where there are any; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02}:{second:02}"
