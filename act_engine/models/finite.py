"""Which weights and statistics hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those that hold NaN or infinity; an attention mask, of nothing but 0 and −inf, is none of them.

    One pass over each tensor that makes no copy of it.
    """
    return [name for name, tensor in tensors.items() if not _is_finite(tensor) and not _is_mask(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(tensor.detach().aminmax()).isfinite().all())  # aminmax passes NaN on


def _is_mask(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == -torch.inf)).all())
