"""Labels that a model gives to images without any."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from act_engine.attack import frozen_model


def predicted(
    model: nn.Module,
    images: np.ndarray,
    *,
    batch_size: int = 500,
    device: str | torch.device = "cpu",
    on_batch: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """The most likely class of each of `images` `[N, H, W, C]` uint8, which may lie on the disk: `[N]` int64.

    `on_batch` is told the number of images of every batch that is done.
    """
    labels = np.empty(len(images), np.int64)
    with frozen_model(model), torch.no_grad():
        for first in range(0, len(images), batch_size):
            batch = torch.from_numpy(np.array(images[first : first + batch_size])).to(device)
            likely = model(batch.permute(0, 3, 1, 2).float() / 255).argmax(1)
            labels[first : first + len(batch)] = likely.cpu().numpy()
            on_batch(len(batch))
    return labels
