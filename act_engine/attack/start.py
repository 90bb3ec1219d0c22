"""The first iterate of an attack, drawn so that it does not depend on how a batch is split over processes."""

import torch
from torch import Tensor

from act_engine.attack.pixels import unit_range
from act_kernels import random_start


def first_iterate(
    x: Tensor,
    eps: float,
    norm: str,
    start: str,
    generator: torch.Generator,
    *,
    first: int = 0,
) -> Tensor:
    """Where the attack on `x` begins: ``"gaussian"``, ``"uniform"`` (see `random_start`) or ``"none"``: `x` itself.

    The noise belongs to an image's place in the whole batch: any split of it over processes gives the same iterates.

    Args:
        x: clean images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255: a run of the whole batch.
        generator: on x's device; its seed (`torch.Generator.initial_seed`) decides, and is left as it was.
        first: place of x's first image in the whole batch.
    """
    if start == "none" or not len(x):
        return unit_range(x).clone()
    seed = generator.initial_seed()
    generator.manual_seed(seed)
    iterate = random_start(x, eps, norm=norm, kind=start, generator=generator, first=first)
    generator.manual_seed(seed)
    return iterate
