"""Weights that say what they are the weights of: the architecture in a safetensors file's header.

Keys of the header, each of them the setting of that name; the values are JSON:

- ``model.name``: text
- ``model.options``: object, keyword arguments of the architecture
- ``model.num_classes``: number
- ``model.image_shape``: [channels, height, width] of the images, which are in [0, 1]
- ``model.mean``, ``model.std``: one number a channel, for images in [0, 1]; null: not normalised
- ``model.output``, ``model.output_field``: what the architecture gives, and where (`build_model`)

``model.input`` is not among them: what it says about the images is in mean and std.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from act_engine.models.build import build_model, statistics, text
from act_engine.models.tensor_files import read_header
from act_engine.models.weights import load_weights

MOST = 10**5
"""Largest number in a header's options and image shape."""
KEYS = ("name", "options", "num_classes", "image_shape", "mean", "std", "output", "output_field")


def describe_model(
    name: str | Callable[..., nn.Module],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    input: str = "unit",
    output: str = "logits",
    output_field: str | None = None,
) -> dict[str, str]:
    """The header for weights of the model that `build_model` makes with these arguments."""
    mean, std = statistics(name, num_classes=num_classes, image_shape=image_shape, mean=mean, std=std, input=input)
    values = {
        "name": text(name),
        "options": dict(options or {}),
        "num_classes": num_classes,
        "image_shape": list(image_shape),
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
        "output": output,
        "output_field": output_field,
    }
    return {"format": "pt", **{f"model.{key}": json.dumps(value) for key, value in values.items()}}


def load_model(
    path: str | Path, *, factory: Callable[..., nn.Module] | str | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """The model that a run exported, in eval mode: images [B, C, H, W] in [0, 1] to logits [B, classes].

    Args:
        path: a safetensors file with its architecture in the header, such as a run's ``robust.safetensors``.
        factory: for a model of a user's own file: its class or function, or ``package.module:factory``. A file's word
            is not enough to import and call what it names.

    Raises:
        ValueError: the file cannot be read, has no such header, or its weights are not those of that architecture.
    """
    path = Path(path)
    metadata, sizes = read_header(path)
    arguments = _parse(metadata, path)
    name = arguments["name"]
    if factory is not None:
        arguments["name"] = factory
    elif ":" in name:
        raise ValueError(f"factory: got None; {str(path)!r} holds a model of {name!r}: only your word imports that")
    else:
        _check_size(arguments, sizes, path)
    model = build_model(**arguments)
    load_weights(model, path)
    return model.to(device).eval()


def _check_size(arguments: Mapping[str, Any], sizes: Sequence[int], path: Path) -> None:
    """Refuse a header that claims a larger model than the file has weights for, before a byte is allocated for it."""
    made = 0

    def notice(*_: object) -> None:
        nonlocal made
        made += 1
        if made > 4 * len(sizes) + 100:  # some are made and replaced, or not stored
            raise _TooLarge

    hooks = [register_module_parameter_registration_hook(notice), register_module_buffer_registration_hook(notice)]
    try:
        with torch.device("meta"):
            claimed = sum(tensor.numel() for tensor in build_model(**arguments).state_dict().values())
    except _TooLarge:
        claimed = math.inf
    finally:
        for hook in hooks:
            hook.remove()
    if claimed > sum(sizes):
        raise ValueError(f"{str(path)!r}: its header claims a larger model than its {sum(sizes)} weights")


class _TooLarge(BaseException):
    """Not for those who catch what a constructor raises."""


def _parse(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    missing = [f"model.{key}" for key in KEYS if f"model.{key}" not in metadata]
    if missing:
        raise ValueError(
            f"{str(path)!r}: its header has no {missing[0]}, so it does not say what it is the weights of; "
            "build_model and load_weights read it"
        )
    try:
        values = {key: json.loads(metadata[f"model.{key}"]) for key in KEYS}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r}: a header that is not JSON ({str(error)[:200]})") from error
    shape = values["image_shape"]
    sound = {
        "name": isinstance(values["name"], str),
        "options": isinstance(values["options"], dict) and _bounded(values["options"]),
        "num_classes": _whole(values["num_classes"], 2**31),
        "image_shape": isinstance(shape, list) and len(shape) == 3 and all(map(_whole, shape)),
        "mean": _numbers(values["mean"]),
        "std": _numbers(values["std"]),
        "output_field": isinstance(values["output_field"], str | None),
    }
    for key, fine in sound.items():
        if not fine:
            raise ValueError(f"{str(path)!r}: model.{key}: got {str(values[key])[:100]}, which is no such value")
    values["image_shape"] = tuple(shape)
    return values


def _whole(value: Any, most: int = MOST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _bounded(value: Any) -> bool:
    """Whether no number in the options is so large that a constructor's own loops and lists would be a burden."""
    if isinstance(value, dict | list):
        return all(map(_bounded, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or abs(value) <= MOST


def _numbers(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, int | float) for one in value))
