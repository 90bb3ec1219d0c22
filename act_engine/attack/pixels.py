"""The one meaning of an image tensor: float is [0, 1] already, uint8 means x / 255."""

import torch
from torch import Tensor


def unit_range(images: Tensor) -> Tensor:
    """Images as float in [0, 1]: uint8 is divided by 255 (float32), float is returned as it is."""
    return images / 255 if images.dtype == torch.uint8 else images
