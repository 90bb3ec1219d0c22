"""What a run says while it goes: metrics.jsonl, TensorBoard and a progress bar."""

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from act_engine.runs.folder import METRICS


class RunLog:
    """Writes one record for each logging interval to metrics.jsonl and TensorBoard, and keeps a progress bar.

    Args:
        folder: of the run; records after `first_step`, left by an interrupted run, are dropped from its metrics.jsonl.
        first_step, total_steps: steps already taken, and in all.
    """

    def __init__(self, folder: Path, first_step: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / METRICS
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
        path.write_text("".join(kept), "utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, mininterval=0.5)

    def advance(self) -> None:
        """One training step is done."""
        self._bar.update()

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it has ``step`` and any other numbers."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, record["step"])
        shown = {name: f"{value:.4g}" for name, value in record.items() if name.endswith("_loss") or name == "lr"}
        self._bar.set_postfix({"images/s": f"{record['images_per_second']:.0f}", **shown}, refresh=False)

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        self._bar.write(message)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()


class NoLog:
    """A `RunLog` for the processes that write nothing."""

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
        """``images_per_second`` and ``data_wait_fraction`` (of the wall time) since the last lap."""
        elapsed = time.perf_counter() - self._start
        result = {"images_per_second": self._images / elapsed, "data_wait_fraction": self._waited / elapsed}
        self._begin()
        return result


def _whole_lines(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]
