"""Weights from a file into a model, executing nothing that the file holds."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a plain state dict, safetensors (``*.safetensors``) or a PyTorch file of tensors alone, into `model`.

    Raises:
        ValueError: the file cannot be read, holds anything but tensors, or does not fit the model; the model is then
            unchanged.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r}: not plain weights ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{str(path)!r}: holds no plain state dict; save model.state_dict() alone")
    own = model.state_dict()
    misfits = [f"{name} is missing" for name in own.keys() - state.keys()]
    misfits += [f"{name} is unknown" for name in state.keys() - own.keys()]
    misfits += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if misfits:
        raise ValueError(
            f"{str(path)!r}: does not fit the model: {', '.join(sorted(misfits)[:3])} ({len(misfits)} in all)"
        )
    model.load_state_dict(state)
