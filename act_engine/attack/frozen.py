"""A model as an attack may use it: fixed weights, eval mode, only the input gradient left to compute."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode with its parameters frozen; every flag is put back on leaving, whatever happened inside.

    The training flag is kept for each submodule, so a model that is partly in eval mode comes back as it was. BatchNorm
    statistics are only read, and no parameter gradient is computed, so none is accumulated, consumed or reduced.
    """
    training = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter in trainable:
            parameter.requires_grad_(True)
