"""Position embeddings of vision transformers for another number of patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resample_position_embedding(owner: nn.Module, given: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The embedding `given` [1, n, channels], of a square grid, bicubic on the grid of `owner`; None if it cannot be.

    Args:
        owner: module whose embedding of `shape` it becomes: a ViT. Tokens before the patches' are kept as they are;
            how many there are it says itself, as timm's do (`num_prefix_tokens`, `no_embed_class`), or else it is 1,
            where the rest is then a square, or 0.
    """
    if given.dim() != 3 or len(shape) != 3 or given.shape[0] != 1 or given.shape[2] != shape[2]:
        return None
    prefix = _prefix_tokens(owner, given.shape[1], shape[1])
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    grid = getattr(getattr(owner, "patch_embed", None), "grid_size", None) or (math.isqrt(shape[1] - prefix),) * 2
    if side == 0 or side * side != given.shape[1] - prefix or grid[0] * grid[1] != shape[1] - prefix:
        return None
    patches = given[:, prefix:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=tuple(grid), mode="bicubic", antialias=True, align_corners=False)
    patches = patches.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)
    return torch.cat((given[:, :prefix].float(), patches), 1)


def _prefix_tokens(owner: nn.Module, given: int, own: int) -> int:
    """Tokens before the patches' in the embedding: as `owner` says, or as many as leave squares."""
    if hasattr(owner, "num_prefix_tokens"):
        return 0 if getattr(owner, "no_embed_class", False) else owner.num_prefix_tokens
    return next((one for one in (1, 0) if _square(given - one) and _square(own - one)), 0)


def _square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number
