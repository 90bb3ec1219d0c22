"""What TensorBoard shows of a run: scalars in groups, its settings and surroundings as text, its final accuracies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from act_engine.runs.folder import CONFIG, ENVIRONMENT

FOLDER = "tensorboard"
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
    """Writes the event files in a run's folder.

    Args:
        folder: of the run.
        purge_step: records from this step on, left by an interrupted run, are hidden; None: none are.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=purge_step)

    def describe(self, folder: Path) -> None:
        """Show the run's settings and surroundings, as its folder has them, as text."""
        for file in (CONFIG, ENVIRONMENT):
            if (folder / file).exists():
                lines = (folder / file).read_text("utf-8").splitlines()
                self._writer.add_text(Path(file).stem, "\n".join(f"    {line}" for line in lines))  # as Markdown's code

    def write(self, record: Mapping[str, float]) -> None:
        """Write one record; it has ``step`` and any other numbers."""
        for name, value in record.items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(tag(name), value, int(record["step"]))

    def write_evaluation(self, evaluation: Mapping[str, Any], step: int) -> None:
        """Write the accuracies of each model that was measured, in [0, 1], as ``accuracy/test_KIND/MODEL``."""
        for name, value in final_scalars(evaluation).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything is on the disk."""
        self._writer.close()
