"""Signs of life through the rendezvous store, so that the survivors of a failure can name the rank that caused it."""

import json
import threading
import time
from collections.abc import Sequence

import torch.distributed as dist


class Lost(Exception):
    """Ranks that are waited for are dead, stopped or stuck; the message names them."""


class Heartbeat:
    """Publishes this rank's step every `interval` seconds from a thread of its own.

    The thread beats on while the main thread hangs, so a rank without beats is dead, and one that beats but stands at a
    lower step than the others is the one they wait for.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, interval: float | None = None) -> None:
        self.rank, self.size = rank, size
        self.interval = interval or max(1.0, size / 64)  # a thousand ranks make 64 writes a second
        self.step = 0
        self.progress = 0
        """Counts what the main thread gets done between two steps of training, such as a model's answers."""
        self._totals = 0
        self._store = store.clone()
        self._beats = 0
        self._stopped = threading.Event()
        self._publish()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def find_lost(self) -> str:
        """Wait two intervals, then say in words which ranks are dead or behind."""
        try:
            before = self._read()
            time.sleep(2.5 * self.interval)
            after = self._read()
        except RuntimeError:  # the store has gone as well
            return "the rendezvous does not answer either: its host died or is unreachable"
        dead = [rank for rank in range(self.size) if after[rank] is None or before[rank] == after[rank]]
        if dead:
            return f"no sign of life from rank {', '.join(map(str, dead))}"
        steps = {rank: int(beat[1]) for rank, beat in after.items()}
        behind = [rank for rank, step in steps.items() if step < max(steps.values())]
        if behind:
            return f"rank {', '.join(map(str, behind))} stayed behind at step {steps[behind[0]] + 1}"
        return f"every rank is alive at step {max(steps.values()) + 1}"

    def total(self, counts: Sequence[int], patience: float, *, working: bool) -> list[int]:
        """The sum of whole numbers over all ranks, however long the slowest of them takes; a collective.

        Args:
            patience: seconds that a rank may stay without a sign of life.
            working: the others are at work of which `progress` tells: that must rise within `patience` too.

        Raises:
            Lost: a rank stayed without.
            RuntimeError: the store does not answer.
        """
        self._totals += 1
        name = f"total/{self._totals}"
        self._store.set(f"{name}/{self.rank}", json.dumps(list(counts)))
        keys = [f"{name}/{rank}" for rank in range(self.size)] if self.rank == 0 else [name]
        heard: dict[tuple[int, int], tuple[str, float]] = {}
        pause, looked = 0.001, time.monotonic()
        while not self._store.check(keys):
            self.progress += 1  # to wait is well
            time.sleep(pause)
            pause = min(2 * pause, 0.1 * self.interval)
            if time.monotonic() - looked >= self.interval:
                looked = time.monotonic()
                self._require_life(heard, patience, working)
        if self.rank == 0:
            rows = [json.loads(self._store.get(key)) for key in keys]
            self._store.set(name, json.dumps([sum(column) for column in zip(*rows, strict=True)]))
        return json.loads(self._store.get(name))

    def _require_life(self, heard: dict[tuple[int, int], tuple[str, float]], patience: float, working: bool) -> None:
        """`heard` is the caller's memory between two calls: each rank's last signs, and when they were first seen."""
        now = time.monotonic()
        for rank, beat in self._read().items():
            for kind, value in ((0, beat[0]), (1, beat[2])) if beat else ((0, ""), (1, "")):
                if heard.get((rank, kind), ("", now))[0] != value or (rank, kind) not in heard:
                    heard[rank, kind] = (value, now)
        for kind, said in ((0, "no sign of life from"), (1, f"no progress within {patience:g} s from"))[: 1 + working]:
            lost = [rank for (rank, k), (_, since) in heard.items() if k == kind and now - since > patience]
            if lost:
                raise Lost(f"{said} rank {', '.join(map(str, lost))}")

    def _beat(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self._publish()
            except RuntimeError:  # the store's host has ended: there is nobody left to tell
                return

    def _publish(self) -> None:
        self._beats += 1
        self._store.set(f"beat/{self.rank}", f"{self._beats} {self.step} {self.progress}")

    def _read(self) -> dict[int, list[str] | None]:
        """By rank its count of beats, its step and its progress; None for one that has not begun."""
        keys = {rank: f"beat/{rank}" for rank in range(self.size)}
        return {
            rank: self._store.get(key).decode().split() if self._store.check([key]) else None
            for rank, key in keys.items()
        }
