"""Data sets that fit into memory: held on the training device, shuffled and augmented there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from act_engine.data.contract import Batch
from act_engine.data.identity import identity_of
from act_engine.data.order import OrderedLoader

CROP_PADDING = 4  # pixels, as in the published CIFAR recipes


class ArrayLoader(OrderedLoader):
    """Batches of images `[N, H, W, C]` (uint8, or float32 in [0, 1]) and labels `[N]`, held on `device`.

    `augment="crop_flip"`: reflect-pad by 4, random crop back to the size, random horizontal flip, as one gather. Its
    draws belong to the image's place in the epoch's global order, so they do not depend on the number of ranks.
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
        **order: Any,
    ) -> None:
        super().__init__(len(images), batch_size, **order)
        self.images = torch.from_numpy(images).to(device)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.augment = augment
        self.classes = classes

    def identity(self) -> dict[str, Any]:
        images, labels = self.images.cpu().numpy(), self.labels.cpu().numpy()
        return identity_of(labels, self.classes, [repr((images.shape, images.dtype)).encode(), images])

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        indices = self._on_device(self.positions(epoch))
        if self.augment == "crop_flip":
            draws = self.random(epoch, stream=1).integers(
                0, [2 * CROP_PADDING + 1, 2 * CROP_PADDING + 1, 2], (len(indices), 3)
            )
            draws = self._on_device(draws)
        for step in range(first_step, len(self)):
            span = self.span(step)
            chosen = indices[span]
            if self.augment == "crop_flip":
                images = crop_flip(self.images, chosen, *draws[span].unbind(1))
            else:
                images = self.images[chosen]
            yield Batch(images.permute(0, 3, 1, 2), self.labels[chosen])

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
