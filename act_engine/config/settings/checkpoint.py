"""What is saved, and which checkpoint is chosen."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | None = None
    """Steps between two checkpoints; null: one at the end of every epoch."""
    keep: int = 2
    """Newest checkpoints kept, 1 or more."""
    keep_every_epochs: int | None = None
    """Keep the checkpoint at the end of every so many epochs for good; null: none."""
    best_every_epochs: int | None = None
    """Measure the robust model (its averaged weights, where there are any) by PGD from one start after every so many
    epochs, on data.selection_samples images that are neither trained on nor tested on; the checkpoint with the highest
    robust accuracy is kept and exported. null: never, and the last is exported."""
    best_steps: int = 10
    """With best_every_epochs: iterations of that PGD, 1 or more."""
    best_loss: Literal["ce", "margin", "dlr"] = "ce"
    """With best_every_epochs: its loss, as evaluate.loss."""
    best_patience: int | None = None
    """With best_every_epochs: end the training after so many measurements in a row without a new best, 1 or more;
    null: train all epochs."""
    on_error: Literal["stop", "continue"] = "stop"
    """What a checkpoint, or a line of metrics, that cannot be written (a full disk) does to the run; the older
    checkpoints stay in either case. The results at the end must be written in any case."""

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            require(self.every_steps >= 1, "checkpoint.every_steps", self.every_steps, "1 or more, or null")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")
        for name in ("keep_every_epochs", "best_every_epochs"):
            epochs = getattr(self, name)
            if epochs is not None:
                require(epochs >= 1, f"checkpoint.{name}", epochs, "1 or more, or null")
        require(self.best_steps >= 1, "checkpoint.best_steps", self.best_steps, "1 or more")
        if self.best_patience is not None:
            require(self.best_patience >= 1, "checkpoint.best_patience", self.best_patience, "1 or more, or null")
