"""Classifiers by name: they take images in [0, 1] and normalise, if at all, in their first layer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from act_engine.models.layers import Normalize
from act_engine.models.small_cnn import SmallCNN
from act_engine.models.weights import load_weights

__all__ = ["Normalize", "build_model", "load_weights", "model_names"]


def model_names() -> list[str]:
    """Return the names of this package's own architectures."""
    return ["small_cnn"]


def build_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Return a freshly initialised classifier of [0, 1] images `[B, *image_shape]` with logits `[B, num_classes]`.

    With `mean` and `std` (one value a channel) its first layer is a `Normalize`, so that an attack's eps stays in
    pixel units. ValueError for an unknown name, with the nearest ones.
    """
    if num_classes < 1:
        raise ValueError(f"model.num_classes: {num_classes} given; it must be at least 1")
    if (mean is None) != (std is None):
        raise ValueError("model.mean and model.std: give both or neither")
    if name != "small_cnn":
        close = difflib.get_close_matches(name, model_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"model.name: unknown model {name!r}{hint}")
    model = SmallCNN(num_classes, in_channels=image_shape[0])
    return model if mean is None else nn.Sequential(Normalize(mean, std), model)
