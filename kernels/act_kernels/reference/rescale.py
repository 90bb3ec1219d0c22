"""The backward of the losses: their gradients were computed in the forward pass, and are scaled here."""

from torch import Tensor


def rescale_(first: Tensor | None, second: Tensor | None, factor: Tensor, scale: float) -> None:
    """Multiply each gradient [B, C] by scale · factor (one number), in place. One that is None is not there."""
    if factor.is_cpu and type(factor) is Tensor:  # a fake one, of a dry run, has no value
        factor = factor.tolist()  # reads the memory; `item` is an operator, which no step may have
        if factor * scale == 1:
            return
    for grad in (first, second):
        if grad is not None:
            grad.mul_(factor * scale)
