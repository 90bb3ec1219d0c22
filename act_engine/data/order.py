"""Which image each rank sees at which step, and the position that a checkpoint keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from act_engine.data.augmenting import DRAWS, Augmenting
from act_engine.data.contract import Batch
from act_engine.data.draws import uniforms
from act_engine.data.mixture import Mixture


class OrderedLoader(ABC):
    """The part of a `Loader` that all sources share: sharding, a full shuffle each epoch, and the position.

    Train (`shuffle=True`): step s of the epoch is the s-th run of `world_size * batch_size` images of one permutation
    of all images, of which each rank takes its part. So a global batch holds the same images however many ranks share
    it. With a `mixture` extra images take some of the places, and an epoch is as long as one of `epoch_images` images
    (None: of `num_samples`); `augmenting` is done to every batch, by draws of its places. Test: rank r holds images
    [r N / W, (r + 1) N / W), in order.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mixture: Mixture | None = None,
        epoch_images: int | None = None,
        augmenting: Augmenting | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size: got {batch_size}; allowed: 1 or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: got {rank}; allowed: 0 to {world_size - 1}")
        self.epoch_images = epoch_images or num_samples
        if shuffle and batch_size * world_size > self.epoch_images:
            raise ValueError(
                f"data.batch_size: {batch_size} on each of {world_size} process(es) is more than the "
                f"{self.epoch_images} training images of an epoch; at most {self.epoch_images // world_size} fit"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.mixture = mixture
        self.augmenting = augmenting
        self.rank = rank
        self.world_size = world_size
        self._position = (0, 0)  # (epoch, step) of the next batch
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        if self.shuffle:
            return self.epoch_images // (self.batch_size * self.world_size)
        first, last = self._shard()
        return -(-(last - first) // self.batch_size)

    def epoch(self, index: int) -> Iterator[Batch]:
        first_step = 0
        if self._resume is not None:
            epoch, first_step = self._resume
            self._resume = None
            if epoch != index:
                raise ValueError(f"epoch: {index} asked for, but the loaded state goes on in epoch {epoch}")
        self._position = (index, first_step)
        return self._counted(index, first_step)

    def state_dict(self) -> dict[str, Any]:
        epoch, step = self._position
        if step == len(self):
            epoch, step = epoch + 1, 0
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise ValueError(
                    f"data: the saved position has {key} {state.get(key)}, this run has {value}; "
                    "go on with the settings and the data that it was saved with"
                )
        self._position = (state["epoch"], state["step"])
        self._resume = self._position if state["step"] else None

    def positions(self, epoch: int) -> np.ndarray:
        """Return the dataset indices of pass `epoch` in global order, `[num_samples]` int64.

        With a mixture `[steps * global batch]`: those from `num_samples` on are extra images'.
        """
        if not self.shuffle:
            return np.arange(self.num_samples)
        if self.mixture is not None:
            return self.mixture.positions(self.seed, epoch, len(self), self.batch_size * self.world_size)
        return self.random(epoch, stream=0).permutation(self.num_samples)

    def key(self, epoch: int, stream: int) -> int:
        """Return the 64-bit key of one kind of counted draws (`stream`) of an epoch, as `uniforms` takes it."""
        return int(self.random(epoch, stream).integers(2**64, dtype=np.uint64))

    def random(self, epoch: int, stream: int, step: int = 0) -> np.random.Generator:
        """Return the generator of one kind of draw (`stream`) of an epoch or step: a function of these and the seed."""
        return np.random.default_rng([self.seed, epoch, stream, step])

    def span(self, step: int) -> slice:
        """Return where in the global order of an epoch this rank's batch number `step` lies."""
        if self.shuffle:
            first = (step * self.world_size + self.rank) * self.batch_size
            return slice(first, first + self.batch_size)
        shard_first, shard_last = self._shard()
        first = shard_first + step * self.batch_size
        return slice(first, min(first + self.batch_size, shard_last))

    @abstractmethod
    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yield this rank's batches of pass `epoch` from `first_step` on."""

    def _counted(self, epoch: int, first_step: int) -> Iterator[Batch]:
        for step, batch in enumerate(self.batches(epoch, first_step), start=first_step):
            if self.augmenting:
                span = self.span(step)
                draws = uniforms(self.key(epoch, stream=5), np.arange(span.start, span.stop), DRAWS)
                batch = batch._replace(images=self.augmenting(batch.images, draws))
            self._position = (epoch, step + 1)
            yield batch

    def _shard(self) -> tuple[int, int]:
        return (
            self.rank * self.num_samples // self.world_size,
            (self.rank + 1) * self.num_samples // self.world_size,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "global_batch_size": self.batch_size * self.world_size,  # however many ranks share it
            "seed": self.seed,
            **({"mixture": self.mixture.describe(), "steps": len(self)} if self.mixture is not None else {}),
        }
