"""What TensorBoard shows of a run: scalars in groups, its settings and surroundings as text, its final accuracies."""

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from act_engine.runs.folder import CONFIG, ENVIRONMENT
from act_engine.runs.writing import Growing

FOLDER = "tensorboard"
_count = itertools.count()  # of this process's event files
SPEED = ("seconds", "images_per_second", "data_wait_fraction")


def tag(name: str) -> str:
    """A metric's name on the board, in the group ``loss/``, ``accuracy/``, ``speed/`` or ``optim/``.

    ``robust_loss`` is ``loss/robust``; ``held_out_robust_accuracy`` is ``accuracy/held_out_robust``.
    """
    for group in ("loss", "accuracy"):
        if name.endswith(f"_{group}"):
            return f"{group}/{name.removesuffix(f'_{group}')}"
    if name in SPEED or name.startswith("profile/"):
        return f"speed/{name}"
    return f"optim/{name}"


def final_scalars(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of an evaluation, in [0, 1], by their names on a board: ``accuracy/test_KIND/MODEL``."""
    return {
        f"accuracy/test_{name.removesuffix('_accuracy')}/{model}": value
        for model, entry in evaluation["models"].items()
        for name, value in entry.items()
        if name.endswith("_accuracy") and value is not None
    }


class Board:
    """Writes an event file in a run's folder, record by record.

    Not by TensorBoard's own writer, whose thread ends on a full disk with a traceback and leaves half a record.

    Args:
        folder: of the run.
        purge_step: records from this step on, left by an interrupted run, are hidden; None: none are.

    Raises:
        OSError: from any method: the file could not be written; it holds whole records.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{next(_count)}"
        self._file = Growing(folder / FOLDER / name)
        self._event(file_version="brain.Event:2")
        if purge_step is not None:
            from tensorboard.compat.proto.event_pb2 import SessionLog

            self._event(purge_step, session_log=SessionLog(status=SessionLog.START))

    def describe(self, folder: Path) -> None:
        """Show the run's settings and surroundings, as its folder has them, as text."""
        from torch.utils.tensorboard.summary import text

        for file in (CONFIG, ENVIRONMENT):
            if (folder / file).exists():
                lines = (folder / file).read_text("utf-8", errors="replace").splitlines()
                as_code = "\n".join(f"    {line}" for line in lines)  # of Markdown
                self._event(summary=text(Path(file).stem, as_code))

    def write(self, record: Mapping[str, float]) -> None:
        """Write one record; it has ``step`` and any other numbers."""
        values = {tag(name): value for name, value in record.items() if name not in ("step", "epoch")}
        self._scalars(values, int(record["step"]))

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        """Write the accuracies of each model that was measured, in [0, 1], as ``accuracy/test_KIND/MODEL``."""
        self._scalars(final_scalars(evaluation), step)

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        parts = [scalar(name, value) for name, value in values.items()]
        if parts:
            summary = parts[0]
            for part in parts[1:]:
                summary.MergeFrom(part)
            self._event(step, summary=summary)

    def _event(self, step: int | None = None, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        framed = io.BytesIO()
        RecordWriter(framed).write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
        self._file.append(framed.getvalue())
