"""Images as a model is given them: float in [0, 1], in its layout, a copy where it writes into them; how far apart."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from act_engine.errors import in_255ths, require


def unit_range(images: Tensor) -> Tensor:
    """Images as float in [0, 1]: uint8 is divided by 255 (float32), float is returned as it is."""
    return images / 255 if images.dtype == torch.uint8 else images


def diameter(norm: str, shape: Sequence[int]) -> float:
    """How far two images of `shape` (C, H, W) in [0, 1] can lie apart: a ball of that radius holds them all."""
    return {"linf": 1.0, "l2": math.prod(shape) ** 0.5, "l1": float(math.prod(shape))}[norm]


def require_within(setting: str, value: float, norm: str, shape: Sequence[int]) -> None:
    """Refuse a radius, or a step, that is longer than images of `shape` (C, H, W) can lie apart."""
    most = diameter(norm, shape)
    allowed = f"at most {most:.6g}: images {list(shape)} in [0, 1] lie no further apart in {norm}{in_255ths(value)}"
    require(value <= most, setting, value, allowed)


class Inputs:
    """The batches of one model: a copy of each if the model wrote into its first.

    Args:
        memory_format: of batches of four dimensions.
    """

    def __init__(self, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        self.memory_format = memory_format
        self._copied, self._decided = True, False

    def __call__(self, images: Tensor) -> Tensor:
        """The batch for `images` [B, C, H, W]: after `seen`, themselves where they have its form and may be shared."""
        batch = unit_range(images)
        if batch.dim() == 4:
            batch = batch.contiguous(memory_format=self.memory_format)
        return batch.clone() if self._copied and batch is images else batch

    def seen(self, batch: Tensor) -> None:
        """Tell that a pass over `batch` has ended; the first one decides."""
        if not self._decided:
            self._decided, self._copied = True, batch.is_inference() or batch._version > 0
