"""Signs of life through the rendezvous store, so that the survivors of a failure can name the rank that caused it."""

import threading
import time

import torch.distributed as dist


class Heartbeat:
    """Publishes this rank's step every `interval` seconds from a thread of its own.

    The thread beats on while the main thread hangs, so a rank without beats is dead, and one that beats but stands at a
    lower step than the others is the one they wait for.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, interval: float | None = None) -> None:
        self.rank, self.size = rank, size
        self.interval = interval or max(1.0, size / 64)  # a thousand ranks make 64 writes a second
        self.step = 0
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
        steps = {rank: beat[1] for rank, beat in after.items()}
        behind = [rank for rank, step in steps.items() if step < max(steps.values())]
        if behind:
            return f"rank {', '.join(map(str, behind))} stayed behind at step {steps[behind[0]] + 1}"
        return f"every rank is alive at step {max(steps.values()) + 1}"

    def silent(self, heard: dict[int, tuple[int, float]], patience: float) -> list[int]:
        """The ranks that have given no sign of life for `patience` seconds, dead or stopped.

        `heard` is the caller's memory between two calls: each rank's last count of beats, and when it was first seen.
        """
        now = time.monotonic()
        for rank, beat in self._read().items():
            count = 0 if beat is None else beat[0]
            if rank not in heard or heard[rank][0] != count:
                heard[rank] = (count, now)
        return [rank for rank, (_, since) in heard.items() if now - since > patience]

    def _beat(self) -> None:
        while not self._stopped.wait(self.interval):
            try:
                self._publish()
            except RuntimeError:  # the store's host has ended: there is nobody left to tell
                return

    def _publish(self) -> None:
        self._beats += 1
        self._store.set(f"beat/{self.rank}", f"{self._beats} {self.step}")

    def _read(self) -> dict[int, tuple[int, int] | None]:
        keys = {rank: f"beat/{rank}" for rank in range(self.size)}
        return {
            rank: tuple(map(int, self._store.get(key).split())) if self._store.check([key]) else None
            for rank, key in keys.items()
        }
