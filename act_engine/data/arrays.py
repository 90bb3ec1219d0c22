"""Data sets that fit into memory: held on the training device, shuffled and augmented there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from act_engine.data.contract import Batch
from act_engine.data.dali import made_ahead
from act_engine.data.extra import Extra
from act_engine.data.identity import identity_of
from act_engine.data.order import OrderedLoader

CROP_PADDING = 4  # pixels, as in the published CIFAR recipes


class ArrayLoader(OrderedLoader):
    """Batches of images `[N, H, W, C]` (uint8, or float32 in [0, 1]) and labels `[N]`, held on `device`.

    `augment="crop_flip"`: reflect-pad by 4, random crop back to the size, random horizontal flip, as one gather. Its
    draws belong to the image's place in the epoch's global order, so they do not depend on the number of ranks.
    `extra`: images that a `mixture` puts beside them; they stay on the disk, from where a thread fetches them ahead.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        augment: str = "none",
        device: str | torch.device = "cpu",
        classes: Sequence[str] | None = None,
        extra: Extra | None = None,
        **order: Any,
    ) -> None:
        super().__init__(len(images), batch_size, **order)
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.augment = augment
        self.classes = classes
        self.extra = extra
        self._fetcher = None if extra is None else ThreadPoolExecutor(1, thread_name_prefix="fetch-extra")

    def identity(self) -> dict[str, Any]:
        images, labels = self.images.cpu().numpy(), self.labels.cpu().numpy()
        more = [] if self.extra is None else self.extra.content()
        return identity_of(labels, self.classes, [repr((images.shape, images.dtype)).encode(), images, *more])

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        order = self.positions(epoch)
        indices = self._on_device(order)
        if self.augment == "crop_flip":
            draws = self.random(epoch, stream=1).integers(
                0, [2 * CROP_PADDING + 1, 2 * CROP_PADDING + 1, 2], (len(indices), 3)
            )
            draws = self._on_device(draws)
        for step, (source, labels, chosen) in self._sources(epoch, first_step, order, indices):
            if self.augment == "crop_flip":
                images = crop_flip(source, chosen, *draws[self.span(step)].unbind(1))
            else:
                images = source[chosen]
            yield Batch(images.permute(0, 3, 1, 2), labels[chosen])

    def _sources(
        self, epoch: int, first_step: int, order: np.ndarray, indices: Tensor
    ) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
        """For each step: images and labels on the device, and which of them make the batch, in its order."""
        steps = range(first_step, len(self))
        if self.extra is None:
            for step in steps:
                yield step, (self.images, self.labels, indices[self.span(step)])
            return
        batch = self.span(0)
        places = self.mixture.is_extra(epoch, self.batch_size * self.world_size)[batch]
        count = int(places.sum())
        # Extra images come before the data set's own in what a step is made of.
        chosen = np.where(places, np.cumsum(places) - 1, count + np.cumsum(~places) - 1)
        chosen, own = self._on_device(chosen), self._on_device(np.flatnonzero(~places))

        def fetch(step: int) -> tuple[Tensor, Tensor]:
            pinned = self.images.is_cuda
            images = torch.empty(count, *self.images.shape[1:], dtype=torch.uint8, pin_memory=pinned)
            labels = torch.empty(count, dtype=torch.int64, pin_memory=pinned)
            self.extra.take(order[self.span(step)][places] - self.num_samples, images.numpy(), labels.numpy())
            return images, labels

        for step, (images, labels) in zip(steps, made_ahead(self._fetcher, fetch, steps), strict=True):
            mine = indices[self.span(step)][own]
            images = images.to(self.images.device, non_blocking=True)
            if self.images.is_floating_point():
                images = images.to(self.images.dtype) / 255
            labels = labels.to(self.images.device, non_blocking=True)
            yield step, (torch.cat([images, self.images[mine]]), torch.cat([labels, self.labels[mine]]), chosen)

    def _on_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.images.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self.images.device, non_blocking=True)


def crop_flip(images: Tensor, chosen: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Return `images[chosen]` (`[N, H, W, C]` → `[B, H, W, C]`), each reflect-padded, cropped and flipped.

    `top` and `left` `[B]` in [0, 2 * CROP_PADDING] place the crop in the padded image, `flip` `[B]` is 0 or 1. Padding,
    crop and flip only say which source pixel each pixel is, so all of it is one indexing operation.
    """
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=images.device) + (top[:, None] - CROP_PADDING)
    columns = torch.arange(width, device=images.device).expand(len(chosen), width)
    columns = torch.where(flip[:, None] == 1, width - 1 - columns, columns) + (left[:, None] - CROP_PADDING)
    rows, columns = _reflect(rows, height), _reflect(columns, width)
    return images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices up to one padding outside [0, size) back, as reflection padding does (edge not repeated)."""
    index = index.abs()
    return (size - 1) - ((size - 1) - index).abs()
