"""Which places of a training batch extra images take, and which of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from act_engine.data.draws import permuted, uniforms


@dataclass(frozen=True)
class Mixture:
    """Extra images beside those of a data set of `base` images, as numbers from `base` on.

    Every global batch of B images has floor(share · B) extra ones, spread evenly over its places, so that however many
    ranks share it each has its part. The others are the first images of a permutation of the data set, drawn anew for
    every epoch. What a place holds is a function of (seed, epoch, place).
    """

    base: int
    extra: int
    share: float
    once: bool = False
    """Go through all extra images before any is shown again; else each is drawn with replacement."""
    only_epochs: int = 0
    """The first so many epochs have extra images alone."""

    def is_extra(self, epoch: int, batch: int) -> np.ndarray:
        """Which places of a global batch of `batch` images hold extra ones, `[batch]` bool."""
        count = self._count(epoch, batch)
        places = np.arange(batch + 1) * count // batch
        return places[1:] > places[:-1]

    def positions(self, seed: int, epoch: int, steps: int, batch: int) -> np.ndarray:
        """Numbers of the images of an epoch in global order, `[steps * batch]` int64."""
        extra = np.tile(self.is_extra(epoch, batch), steps)
        order = np.empty(len(extra), np.int64)
        order[~extra] = self._own(seed, epoch, int((~extra).sum()))
        if self.once:
            order[extra] = self.base + self._each_once(seed, epoch, steps, batch)
        else:
            drawn = uniforms(_key(seed, epoch, 3), np.flatnonzero(extra), 1)[:, 0]
            order[extra] = self.base + np.minimum((drawn * self.extra).astype(np.int64), self.extra - 1)
        return order

    def describe(self) -> dict[str, Any]:
        """What a position in the data depends on, as JSON values."""
        return dataclasses.asdict(self)

    def _count(self, epoch: int, batch: int) -> int:
        return batch if epoch < self.only_epochs else math.floor(self.share * batch + 1e-9)

    def _own(self, seed: int, epoch: int, count: int) -> np.ndarray:
        passes = -(-count // self.base)
        random = np.random.default_rng([seed, epoch, 0, 0])
        return np.concatenate([random.permutation(self.base) for _ in range(max(passes, 1))])[:count]

    def _each_once(self, seed: int, epoch: int, steps: int, batch: int) -> np.ndarray:
        alone = min(epoch, self.only_epochs)
        before = steps * (alone * batch + (epoch - alone) * self._count(self.only_epochs, batch))
        running = before + np.arange(steps * self._count(epoch, batch))
        found = np.empty(len(running), np.int64)
        for number in range(running[0] // self.extra, running[-1] // self.extra + 1) if len(running) else ():
            here = running // self.extra == number
            found[here] = permuted(running[here] % self.extra, self.extra, _key(seed, int(number), 4))
        return found


def _key(seed: int, number: int, stream: int) -> int:
    return int(np.random.default_rng([seed, number, stream, 0]).integers(2**64, dtype=np.uint64))
