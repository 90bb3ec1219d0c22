"""A model as an attack may use it: fixed weights, eval mode, only the input gradient left to compute."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
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


@contextmanager
def untouched(model: nn.Module) -> Iterator[nn.Module]:
    """What a pass leaves in the model is taken back at the end: buffers' values and whatever attributes it sets.

    So a norm that stays in train mode, or a forward that keeps its activations, leaves no trace. What a forward changes
    within a list or another object of its own is not taken back.
    """
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    attributes = [dict(vars(module)) for module in modules]
    tables = [dict(module._buffers) for module in modules]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield model
    finally:
        for module, own, table in zip(modules, attributes, tables, strict=True):
            vars(module).clear()
            vars(module).update(own)
            module._buffers.clear()
            module._buffers.update(table)
        for buffer, value in buffers:
            buffer.data.copy_(value)  # not counted as a write: a graph of these passes may still need the same values


def version(tensor: torch.Tensor) -> int | None:
    """How often the tensor was written to; None for one of inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version
