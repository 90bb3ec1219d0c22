"""What a run says while it goes: metrics.jsonl, TensorBoard, and a progress bar or lines."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from act_engine.progress import Kind, duration, progress
from act_engine.runs.folder import METRICS, write_text
from act_engine.runs.reading import read_records
from act_engine.runs.writing import Growing
from act_engine.training.trackers import open_tracker


class RunLog:
    """Writes one record for each logging interval to metrics.jsonl and TensorBoard, and shows how far the run is.

    Args:
        folder: of the run; records after `first_step`, left by an interrupted run, are dropped from its metrics.jsonl.
        first_step, total_steps: steps already taken, and in all.
        epochs: of the whole run.
        header: lines that say what is run.
        kind: of progress: ``"auto"``, ``"bar"``, ``"lines"`` or ``"none"``.
        tracker: where it is shown beside: the setting ``train.tracker``.
        stop_on_error: a record that cannot be written shows in `error`; else it is told, once a file, and left out.

    Raises:
        OSError: at the beginning, the files could not be written.
    """

    def __init__(
        self,
        folder: Path,
        first_step: int,
        total_steps: int,
        *,
        epochs: int,
        header: Sequence[str] = (),
        kind: Kind = "auto",
        tracker: str = "tensorboard",
        stop_on_error: bool = True,
    ) -> None:
        self.error: OSError | None = None
        """Why the run is to stop: a record could not be written."""
        self._stop_on_error = stop_on_error
        self._told: set[str] = set()
        path = folder / METRICS
        kept = [record for record in (read_records(path) if path.exists() else []) if record["step"] <= first_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._metrics = Growing(path)
        self._board = open_tracker(tracker, folder, purge_step=first_step + 1)
        self._board.describe(folder)
        self._first_step, self._epochs = first_step, epochs
        self._progress = progress(kind, total_steps, unit="step", what="training", done=first_step, rated=False)
        for line in header:
            self._progress.heading(line)

    def advance(self) -> None:
        """One training step is done."""
        self._progress.advance()

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it has ``step`` and any other numbers."""
        self.keep(METRICS, lambda: self._metrics.append(f"{json.dumps(record)}\n".encode()))
        self.keep("TensorBoard", lambda: self._board.write(record))
        self._progress.show(self._figures(record), always=any(name.endswith("_accuracy") for name in record))

    def keep(self, what: str, write: Callable[[], None]) -> None:
        """Call `write`; what its OSError leads to is as `stop_on_error` says."""
        try:
            write()
        except OSError as error:
            if self._stop_on_error:
                self.error = self.error or error
            elif what not in self._told:
                self._told.add(what)
                self.say(f"warning: {error}; going on without these records")

    def _figures(self, record: dict[str, Any]) -> dict[str, str]:
        figures = {"epoch": f"{record['epoch'] + 1}/{self._epochs}"}
        figures |= {name: f"{value:.4g}" for name, value in record.items() if name.endswith("_loss")}
        figures |= {name: f"{value:.1%}" for name, value in record.items() if name.endswith("_accuracy")}
        return figures | {"lr": f"{record['lr']:.4g}", "images/s": f"{record['images_per_second']:.0f}"}

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        self._progress.say(message)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        first, last = self._first_step, self._progress.done
        if error is None and last > first:
            took = self._progress.elapsed
            steps = f"{first + 1} to {last} of {self._progress.total}"
            self._progress.heading(f"trained steps {steps} in {duration(took)}, {took / (last - first):.3g} s a step")
        self._progress.close()
        self._board.close()
        self._metrics.close()


class NoLog:
    """A `RunLog` for the processes that write nothing."""

    error: OSError | None = None

    def advance(self) -> None:
        pass

    def write(self, record: dict[str, Any]) -> None:
        pass

    def say(self, message: str) -> None:
        pass

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass


class Stopwatch:
    """Time and images since the last lap, and how much of the time went into waiting for data."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._start, self._waited, self._images = time.perf_counter(), 0.0, 0

    def waited(self, seconds: float, images: int) -> None:
        """A batch of `images` came after `seconds`."""
        self._waited += seconds
        self._images += images

    def lap(self) -> dict[str, float]:
        """``seconds``, ``images_per_second`` and ``data_wait_fraction`` (of the wall time) since the last lap."""
        elapsed = time.perf_counter() - self._start
        result = {"seconds": elapsed, "images_per_second": self._images / elapsed}
        result["data_wait_fraction"] = self._waited / elapsed
        self._begin()
        return result
