"""Classifiers by name: they take images in [0, 1] and normalise, if at all, in their first layer."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from act_engine.models import cifar
from act_engine.models.layers import Normalize
from act_engine.models.small_cnn import SmallCNN
from act_engine.models.weights import load_weights

__all__ = ["Normalize", "build_model", "load_weights", "model_names"]

OWN: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": SmallCNN,
    "cifar_resnet18": cifar.resnet18,
    "cifar_preact_resnet18": cifar.preact_resnet18,
}
WIDE_RESNET = re.compile(r"cifar_wrn(\d+)_(\d+)")


def model_names() -> list[str]:
    """Return the names of this package's own architectures, the usual WideResNets among them."""
    return [*OWN, "cifar_wrn28_10", "cifar_wrn34_10"]


def build_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Return a freshly initialised classifier of [0, 1] images `[B, *image_shape]` with logits `[B, num_classes]`.

    `name` is one of `model_names()`, any `cifar_wrn{depth}_{width}`, or any of timm's. With `mean` and `std` (one value
    a channel) its first layer is a `Normalize`, so that an attack's eps stays in pixel units. ValueError for an unknown
    name, with the nearest ones.
    """
    if num_classes < 1:
        raise ValueError(f"model.num_classes: {num_classes} given; it must be at least 1")
    if (mean is None) != (std is None):
        raise ValueError("model.mean and model.std: give both or neither")
    if mean is not None and len(mean) != image_shape[0]:
        raise ValueError(f"model.mean: {list(mean)} given; the images have {image_shape[0]} channel(s)")
    wide = WIDE_RESNET.fullmatch(name)
    if wide:
        model = cifar.wide_resnet(int(wide[1]), int(wide[2]), num_classes, image_shape[0])
    elif name in OWN:
        model = OWN[name](num_classes, image_shape[0])
    else:
        model = _timm_model(name, num_classes, image_shape)
    return model if mean is None else nn.Sequential(Normalize(mean, std), model)


def _timm_model(name: str, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    try:
        import timm
    except ImportError:
        known, hint = model_names(), '; timm\'s models need: pip install "act-engine[imagenet]"'
        raise ValueError(f"model.name: unknown model {name!r}{_nearest(name, known)}{hint}") from None
    if not timm.is_model(name):
        raise ValueError(f"model.name: unknown model {name!r}{_nearest(name, model_names() + timm.list_models())}")
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": image_shape[0]}
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:  # such as a ViT's position embedding
        options["img_size"] = image_shape[1:]
    return timm.create_model(name, pretrained=False, **options)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(repr(one) for one in close)}?" if close else ""
