"""Batches that a caller has already, such as a torch DataLoader's, behind the contract of the engine's loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from act_engine.data.contract import Batch, Data, Loader


class GivenLoader:
    """Any iterable of (images, labels) batches as a `Loader`; a new pass over it is a new epoch.

    Before each pass PyTorch's generator is set to a function of (seed, epoch), and a sampler with ``set_epoch`` is told
    the epoch: so a DataLoader shuffles alike in a run and in its continuation. Of several processes each is given its
    own part by the caller, such as with a DistributedSampler.

    Args:
        batches: images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255; labels [B], whole numbers.
        device: where the batches go.
        seed: of the order.
    """

    def __init__(self, batches: Iterable[Any], *, device: str | torch.device = "cpu", seed: int = 0) -> None:
        if iter(batches) is batches:
            raise ValueError("loader: got an iterator, which gives a single pass; allowed: such as a DataLoader")
        self._batches, self._device, self._seed = batches, torch.device(device), seed
        self._position = (0, 0)  # epoch and batches of it that were handed out
        self._resumed: tuple[int, int] | None = None  # where the next pass begins
        self._counted: tuple[int, int, int] | None = None  # images, batches, largest label

    def __len__(self) -> int:
        return len(self._batches) if hasattr(self._batches, "__len__") else self._count()[1]

    @property
    def num_samples(self) -> int:
        """Images of a pass; counted by one where its length does not tell."""
        sampler, dropped = getattr(self._batches, "sampler", None), getattr(self._batches, "drop_last", True)
        return len(sampler) if hasattr(sampler, "__len__") and not dropped else self._count()[0]

    @property
    def batch_size(self) -> int:
        """Images of the first batch."""
        size = getattr(self._batches, "batch_size", None)
        return size if isinstance(size, int) else len(self._first().labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the first batch."""
        return tuple(self._first().images.shape[1:])

    @property
    def num_classes(self) -> int:
        """Largest label of a pass, plus 1."""
        return self._count()[2] + 1

    def epoch(self, index: int) -> Iterator[Batch]:
        """Yield pass number `index`, or the rest of it after `load_state_dict`."""
        resumed, self._resumed = self._resumed, None
        done = resumed[1] if resumed is not None and resumed[0] == index else 0
        set_epoch = getattr(getattr(self._batches, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(index)
        torch.manual_seed(int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0]))
        for number, batch in enumerate(self._batches):
            if number >= done:
                self._position = (index, number + 1)
                yield self._batch(batch)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch handed out."""
        return {"epoch": self._position[0], "step": self._position[1], "steps": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next `epoch` go on exactly there."""
        if state.get("steps") != len(self):
            raise ValueError(f"data: got {len(self)} batches a pass; the run was made with {state.get('steps')}")
        self._position = self._resumed = (state["epoch"], state["step"])

    def _batch(self, batch: Any) -> Batch:
        try:
            images, labels = batch
        except (TypeError, ValueError):
            raise ValueError(
                f"loader: got batches of type {type(batch).__name__}; allowed: pairs (images, labels)"
            ) from None
        if not (isinstance(images, Tensor) and images.dim() == 4):
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"loader: got images of {shape}; allowed: a tensor [B, C, H, W]")
        labels = torch.as_tensor(labels)
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            raise ValueError(f"loader: got labels {tuple(labels.shape)} of {labels.dtype}; allowed: whole numbers [B]")
        to = {"device": self._device, "non_blocking": True}
        return Batch(images.to(**to), labels.to(dtype=torch.int64, **to))

    def _first(self) -> Batch:
        for batch in self._batches:
            return self._batch(batch)
        raise ValueError("loader: got no batch at all; allowed: one or more")

    def _count(self) -> tuple[int, int, int]:
        if self._counted is None:
            samples, steps, largest = 0, 0, -1
            for batch in self._batches:
                labels = self._batch(batch).labels
                samples, steps, largest = samples + len(labels), steps + 1, max(largest, int(labels.max()))
            self._counted = (samples, steps, largest)
        if not self._counted[1]:
            raise ValueError("loader: got no batch at all; allowed: one or more")
        return self._counted


def as_loader(batches: Iterable[Any], *, device: str | torch.device = "cpu", seed: int = 0) -> Loader:
    """`batches` itself if it is one of the engine's loaders, or else a `GivenLoader` of it."""
    if hasattr(batches, "epoch") and hasattr(batches, "load_state_dict"):
        return batches
    return GivenLoader(batches, device=device, seed=seed)


def given_data(
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    num_classes: int | None = None,
    selection: Iterable[Any] | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Data:
    """Loaders of your own as the `Data` that a `Trainer` takes.

    Args:
        train: batches (images [B, C, H, W], float in [0, 1] or uint8; labels [B]), such as those of a DataLoader that
            shuffles. Of several processes each gives its own part.
        test: likewise, the same images in the same order at every pass; every process gives all of them.
        num_classes: None: the largest label plus 1, for which every image is looked at once.
        selection: images to choose the best checkpoint by, given as `test`; None: none.
        device: where the batches go.
        seed: of the training images' order.
    """
    train, test = as_loader(train, device=device, seed=seed), as_loader(test, device=device)
    if num_classes is None:
        num_classes = max(_classes(train), _classes(test))
    chosen = None if selection is None else as_loader(selection, device=device)
    shape = tuple(next(test.epoch(0)).images.shape[1:])
    return Data(train, test, num_classes, shape, selection=chosen)


def _classes(loader: Loader) -> int:
    if isinstance(loader, GivenLoader):
        return loader.num_classes
    return 1 + max(int(labels.max()) for _, labels in loader.epoch(0))
