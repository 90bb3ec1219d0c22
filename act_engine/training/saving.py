"""When a run is saved, what is kept, and how it goes on from the newest whole checkpoint."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from act_engine.data import Loader, identity, require_same
from act_engine.learners import Learner
from act_engine.parallel import World
from act_engine.training import checkpoint

Say = Callable[[str], None]


class Saving:
    """The checkpoints of one run, in ``root/step-N``; all ranks call it together, rank 0 alone writes.

    Args:
        root: folder of the checkpoints.
        learners: by model's name; loader: of the training data. Their states are what a checkpoint holds.
        steps_per_epoch, total_steps: of the run.
        every_steps: steps between two checkpoints; None: one an epoch.
        keep: newest ones to keep.
        keep_every_epochs: keep the one at the end of every so many epochs for good; None: none.
        stop_on_error: whether a checkpoint that cannot be written ends the run.
    """

    def __init__(
        self,
        root: Path,
        learners: Mapping[str, Learner],
        loader: Loader,
        world: World,
        *,
        steps_per_epoch: int,
        total_steps: int,
        every_steps: int | None,
        keep: int,
        keep_every_epochs: int | None,
        stop_on_error: bool,
    ) -> None:
        self._root, self._learners, self._loader, self._world = root, learners, loader, world
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._every, self._keep_every_epochs = every_steps or steps_per_epoch, keep_every_epochs
        self._stop_on_error = stop_on_error
        self._writer = checkpoint.Writer(root, keep)
        self._saved_step = 0
        # Of its own: the writers' threads talk to each other while the training goes on.
        sharded = world.size > 1 and all(learner.sharded for learner in learners.values())
        self._shards = dist.new_group(backend="gloo", timeout=timedelta(seconds=world.timeout)) if sharded else None
        self._identity = identity(loader) if world.is_main else None
        self.best: dict[str, Any] | None = None
        """Of the best measurement so far: its ``step``, whose checkpoint is kept for good, its ``accuracy``, and how
        many measurements have come ``since``."""

    @property
    def failed(self) -> bool:
        """Whether a checkpoint could not be written and the run is to stop at that; it always is where the weights are
        not finite."""
        return self._writer.error is not None and self._stops_at(self._writer.error)

    def _stops_at(self, error: Exception) -> bool:
        return self._stop_on_error or isinstance(error, checkpoint.NonFiniteWeights)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return step % self._every == 0 or step == self._total_steps or self.ends_epochs(step, self._keep_every_epochs)

    def ends_epochs(self, step: int, count: int | None) -> bool:
        """Whether every so many epochs end after `step` steps; never for None."""
        return count is not None and step % (count * self._steps_per_epoch) == 0

    def save(self, step: int, say: Say) -> None:
        """Copy everything to the host and have it written; a collective. A failed write shows in `failed`."""
        if step == self._saved_step:
            return
        states = {
            name: learner.shards() if self._shards else learner.state_dict(keep=self._world.is_main)
            for name, learner in self._learners.items()
        }
        self._saved_step = step
        if not self._world.is_main and not self._shards:
            return
        self._writer.join()
        if self._writer.error is not None:
            if self.failed:
                return
            say(f"warning: {self._writer.take_error()}; going on without that checkpoint")
        values: dict[str, Any] = {"step": step, "data": self._loader.state_dict(), "best": self.best}
        values["train_images"] = self._identity
        values["learners"] = {name: plain for name, (_, plain) in states.items()}
        tensors = {name: group for name, (group, _) in states.items()}
        if self._shards:
            kept = self._kept_for_good(step)
            self._writer.save_shards(step, tensors, values if self._world.is_main else None, kept, self._shards)
            return
        self._writer.save(step, tensors, values, self._kept_for_good(step))

    def saved(self, step: int) -> bool:
        """Whether `save` has been called after this very step."""
        return step == self._saved_step

    def join(self) -> None:
        """Wait for the write under way."""
        self._writer.join()

    def finish(self, say: Say) -> None:
        """Wait for the last checkpoint.

        Raises:
            OSError: it failed and the run is to stop at that.
            NonFiniteWeights: the weights hold NaN or infinity.
        """
        self._writer.join()
        error = self._writer.take_error()
        if error is not None and self._stops_at(error):
            if self._world.is_main:
                raise error
            return
        if error is not None:
            say(f"warning: {error}; the last checkpoint is missing")

    def resume(self, say: Say) -> int:
        """Go on from the newest whole checkpoint, of whatever strategy and world size; returns the steps it holds.

        0 where there is no checkpoint. `say` is told of those that are passed over, on rank 0.

        Raises:
            ValueError: there are checkpoints and none is whole, or the newest is of other data.
        """
        newest = None
        with self._world.together():
            if self._world.is_main:
                newest = checkpoint.find_newest(self._root, warn=lambda message: say(f"warning: {message}"))
        step = -1 if newest is None else int(newest.name.removeprefix("step-"))
        step = int(self._world.gather(torch.tensor([step]))[0])
        if step < 0:
            return 0
        with self._world.together():
            tensors, values = checkpoint.load(self._root / f"step-{step}")
            self._loader.load_state_dict(values["data"])
            if self._world.is_main:
                require_same(values.get("train_images"), self._identity, "train", f"{self._root / f'step-{step}'}")
        for name, learner in self._learners.items():
            learner.load_state_dict(tensors[name], values["learners"][name])
        self._saved_step, self.best = values["step"], values["best"]
        return self._saved_step

    def where(self, step: int) -> str:
        """Where the weights after `step` steps are to be had, for whoever could not write them elsewhere."""
        folder = self._root / f"step-{step}"
        if checkpoint.verify(folder) is None:
            return f"the weights are in {folder}: make room and run the same command again"
        return "make room and run the same command again, which goes on from the last checkpoint"

    def tensors(self, step: int) -> dict[str, dict[str, Tensor]]:
        """The tensors that the checkpoint of that step holds, by model's name, as the learners gave them."""
        return checkpoint.load(self._root / f"step-{step}")[0]

    def _kept_for_good(self, step: int) -> set[int]:
        every = self._keep_every_epochs
        steps = set() if every is None else set(range(0, step + 1, every * self._steps_per_epoch))
        return steps if self.best is None else steps | {self.best["step"]}
