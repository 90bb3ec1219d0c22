"""The losses of the steps since the last look at them: fetched together, and checked."""

import torch
from torch import Tensor

from act_engine.parallel import World


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message says where and what to try."""


class PendingLosses:
    """Collects every step's losses where they are, so that no step waits for the device, until `fetch`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._steps: list[tuple[int, dict[str, Tensor]]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Note the losses of step number `step` (1 for the first), one scalar for each model."""
        self._steps.append((step, losses))

    def fetch(self) -> dict[str, float]:
        """The mean over ranks and steps of each loss since the last call; a collective.

        Raises:
            NonFiniteLoss: on every rank.
        """
        names = list(self._steps[0][1])
        rows = torch.stack([torch.stack([losses[name] for name in names]) for _, losses in self._steps]).cpu()
        ranks = self._world.gather(rows)  # [rank, step, name]
        bad = (~ranks.isfinite()).any(2).nonzero()
        if len(bad):
            rank, index = bad[bad[:, 1].argmin()].tolist()
            values = zip(names, ranks[rank, index].tolist(), strict=True)
            shown = ", ".join(f"{name} loss {value}" for name, value in values)
            where = f" on rank {rank}" if self._world.size > 1 else ""
            raise NonFiniteLoss(
                f"step {self._steps[index][0]}{where}: {shown}; the checkpoints before it are intact. Try a lower "
                "optim.lr, or train.precision float32, and look for bad images"
            )
        self._steps.clear()
        return dict(zip(names, ranks.mean((0, 1)).tolist(), strict=True))
