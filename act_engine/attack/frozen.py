"""A model as an attack may use it: fixed weights, eval mode, only the input gradient left to compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from act_engine.attack.contents import Contents


@contextmanager
def frozen_model(model: nn.Module, train: bool = False) -> Iterator[nn.Module]:
    """The model in eval mode, or in train mode, with its parameters frozen.

    Every flag is put back on leaving, whatever happened inside: the training flag of each submodule, so a model that is
    partly in eval mode comes back as it was. No parameter gradient is computed, so none is accumulated, consumed or
    reduced. In eval mode BatchNorm statistics are only read; in train mode `untouched` puts them back.
    """
    training = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.train(train)
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def untouched(model: nn.Module) -> Iterator[nn.Module]:
    """What a pass leaves in the model is taken back at the end: buffers' values, attributes, what lists and dicts hold.

    So a norm that stays in train mode, or a forward that keeps its activations, leaves no trace.
    """
    contents = Contents(model)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield model
    finally:
        contents.restore()
        for buffer, value in buffers:
            buffer.data.copy_(value)  # not counted as a write: a graph of these passes may still need the same values


def version(tensor: torch.Tensor) -> int | None:
    """How often the tensor was written to; None for one of inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version
