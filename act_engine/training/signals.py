"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 as a request to end after the step under way."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REPEAT = 2.0  # seconds
CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Schedulers warn of a job's end with any of the last four; a closed terminal sends SIGHUP."""


@contextmanager
def caught_signals() -> Iterator[list[signal.Signals]]:
    """The first signal of CAUGHT received inside; another one, REPEAT seconds later or more, acts as it did before.

    Sooner it is the same one: from the terminal and from torchrun, which passes on what it gets.
    """
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in CAUGHT}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # by nohup: the run is to outlive its terminal
        del before[signal.SIGHUP]
    first = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal first
        if not received:
            received.append(signal.Signals(number))
            first = time.monotonic()
        elif time.monotonic() - first >= REPEAT:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
