"""The first iterate of an attack, drawn so that it does not depend on how a batch is split over processes."""

import torch
from torch import Tensor

from act_engine.attack.pixels import unit_range
from act_kernels import random_start

BLOCK = 256
"""Images that share one stream of noise."""


def first_iterate(
    x: Tensor,
    eps: float,
    norm: str,
    start: str,
    generator: torch.Generator,
    *,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    """Where the attack on `x` begins: ``"gaussian"``, ``"uniform"`` (see `random_start`) or ``"none"``: `x` itself.

    The noise belongs to an image's place in the whole batch: each block of 256 consecutive images has a stream of its
    own, seeded with the generator's seed plus the block's number, and whoever holds a part of the block draws all of
    it. So any split of the batch gives the same iterates, for at most 510 images drawn in vain.

    Args:
        x: clean images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255: a run of the whole batch.
        generator: on x's device; its seed (`torch.Generator.initial_seed`) decides, and is left as it was.
        first: place of x's first image in the whole batch.
        total: images in the whole batch; None: `x` is its end.
    """
    if start == "none" or not len(x):
        return unit_range(x).clone()
    last = first + len(x)
    total = last if total is None else total
    seed = generator.initial_seed()
    parts = []
    for low in range(first // BLOCK * BLOCK, last, BLOCK):
        high = min(low + BLOCK, total)
        mine = slice(max(low, first) - first, min(high, last) - first)
        block = x[mine]
        if len(block) < high - low:
            layout = torch.channels_last if not x.is_contiguous() and x.dim() == 4 else torch.contiguous_format
            block = torch.zeros((high - low, *x.shape[1:]), dtype=x.dtype, device=x.device)
            block = block.contiguous(memory_format=layout)
            offset = max(low, first) - low
            block[offset : offset + mine.stop - mine.start] = x[mine]
        generator.manual_seed(seed + low // BLOCK)
        drawn = random_start(block, eps, norm=norm, kind=start, generator=generator)
        parts.append(drawn if block.shape == x[mine].shape else drawn[offset : offset + mine.stop - mine.start])
    generator.manual_seed(seed)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
