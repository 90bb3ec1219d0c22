"""Training a model without keeping its activations from the forward to the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputed(nn.Module):
    """`module`, whose backward pass begins with a second forward pass (Chen et al. 2016, arXiv 1604.06174).

    The second pass repeats the first to the bit, dropout included, and leaves BatchNorm's statistics as they were.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        def contexts():
            return nullcontext(), kept_buffers(self.module)

        def forward(images: Tensor) -> Tensor:
            return self.module(images.clone())  # into which the module may write

        return checkpoint(forward, images, use_reentrant=False, context_fn=contexts)


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """At its end the module's buffers, such as BatchNorm's running statistics, are what they were before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
