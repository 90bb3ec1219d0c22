"""timm's architectures: built by name, with options checked, a ConvStem where it is asked for, published weights."""

from __future__ import annotations

import inspect
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import nn

from act_engine.errors import nearest
from act_engine.models.conv_stem import convnext_stem, vit_stem
from act_engine.models.options import check_options, refused

ELSEWHERE = {
    "num_classes": "model.num_classes",
    "in_chans": "the data's images",
    "img_size": "the data's images",
    "pretrained": "model.pretrained",
    "checkpoint_path": "model.weights",
}
"""Keyword arguments of timm that other settings give."""
NOT_OURS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable", "exportable", "no_jit")
"""Further ones, that name files or change what the model returns."""


def require_timm(name: str, known: Sequence[str]) -> Any:
    """timm, if it has a model of that name; ValueError with the nearest of `known` and its own names otherwise."""
    try:
        import timm
    except ImportError:
        hint = '; timm\'s models need: pip install "act-engine[imagenet]"'
        raise ValueError(f"model.name: unknown model {name!r}{nearest(name, known, most=3)}{hint}") from None
    if not timm.is_model(name):
        raise ValueError(f"model.name: unknown model {name!r}{nearest(name, [*known, *timm.list_models()], most=3)}")
    return timm


def build_timm(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    options: Mapping[str, Any],
    known: Sequence[str] = (),
) -> nn.Module:
    """A freshly initialised model of timm; `known` are further names to suggest from when there is none of that name.

    `options` are keyword arguments of timm's, and ``conv_stem``: true or false, for ViTs and ConvNeXts.
    """
    timm = require_timm(name, known)
    options = dict(options)
    conv_stem = _conv_stem(options)
    _check(timm, name, options)
    return _create(timm, name, image_shape, options, conv_stem, num_classes=num_classes)


def pretrained_timm(name: str, *, image_shape: tuple[int, int, int], options: Mapping[str, Any]) -> nn.Module:
    """The same with timm's published weights and as many classes as those have, out of timm's cache or its hub.

    Raises:
        ValueError: timm has none, or they are not in the cache and cannot be fetched.
    """
    try:
        timm = require_timm(name, ())
        known = timm.is_model_pretrained(name)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"model.pretrained: got True; allowed: false with {name}, of which timm has no weights")
    options = dict(options)
    conv_stem = _conv_stem(options)
    reached = True
    try:
        with _hub() as reached:
            return _create(timm, name, image_shape, options, conv_stem, pretrained=True)
    except Exception as error:  # whatever the hub's client, its cache and the network raise
        reason = " ".join(str(error).split())[:200] if reached else "there is no network"
        raise ValueError(
            f"model.pretrained: got True; timm's weights of {name} are neither in its cache nor to be fetched "
            f"({reason}); fetch them where there is a network, or give model.weights a file"
        ) from error


@contextmanager
def _hub() -> Iterator[bool]:
    """Whether timm's hub can be reached; if not, its client, which would try again for a minute, looks into its cache
    alone. What the client logs is not shown: its errors say the same.
    """
    from huggingface_hub import constants

    logger, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level, reached = logger.level, not offline and _reachable(constants.ENDPOINT)
    try:
        logger.setLevel(logging.CRITICAL)
        constants.HF_HUB_OFFLINE = not reached
        yield reached
    finally:
        logger.setLevel(level)
        constants.HF_HUB_OFFLINE = offline


def _reachable(address: str) -> bool:
    """Whether a connection to the address's host can be made; taken for granted where a proxy makes it."""
    parts = urlsplit(address)
    if getproxies().get(parts.scheme):
        return True
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout=10):
            return True
    except OSError:
        return False


def imagenet_synsets() -> tuple[str, ...]:
    """ImageNet-1k's 1,000 classes, such as n01440764, in the order of its labels.

    Raises:
        ValueError: timm, which brings them, is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        raise ValueError("--class_names: got 'imagenet'; allowed with timm alone: pip install timm") from None
    return tuple(ImageNetInfo().label_names())


def statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std a channel, for images in [0, 1], that timm's weights of this model expect."""
    settings = require_timm(name, ()).get_pretrained_cfg(name)
    if settings is None:
        raise ValueError(f"model.input: got 'normalized'; timm has no values for {name}: give model.mean and model.std")
    return tuple(settings.mean), tuple(settings.std)


def _create(
    timm: Any, name: str, image_shape: tuple[int, int, int], options: dict[str, Any], conv_stem: bool, **given: Any
) -> nn.Module:
    given["in_chans"] = image_shape[0]
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:  # such as a ViT's position embedding
        given["img_size"] = image_shape[1:]
    with refused(name, options):
        model = timm.create_model(name, **given, **options)
    return _with_conv_stem(model, image_shape[0]) if conv_stem else model


def _check(timm: Any, name: str, options: dict[str, Any]) -> None:
    if not options:
        return
    for option in options:
        if option in ELSEWHERE:
            raise ValueError(f"model.options.{option}: got {options[option]!r}; it comes from {ELSEWHERE[option]}")
    with torch.device("meta"):
        signature = inspect.signature(type(timm.create_model(name)).__init__).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    known = [one for one, p in signature.items() if one != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    known = ["conv_stem", *(one for one in known if one not in ELSEWHERE)]
    forbidden = [one for one in options if one in NOT_OURS]
    check_options(name, options, known, open_ended=open_ended and not forbidden)


def _conv_stem(options: dict[str, Any]) -> bool:
    wanted = options.pop("conv_stem", False)
    if not isinstance(wanted, bool):
        raise ValueError(f"model.options.conv_stem: got {wanted!r}; allowed: true or false")
    return wanted


def _with_conv_stem(model: nn.Module, in_channels: int) -> nn.Module:
    from timm.models.convnext import ConvNeXt
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(model, ConvNeXt):
        model.stem = convnext_stem(in_channels, model.stages[0].blocks[0].conv_dw.out_channels)
        return model
    if isinstance(model, VisionTransformer):
        patch = model.patch_embed.patch_size
        if patch[0] == patch[1] and patch[0] & (patch[0] - 1) == 0:
            model.patch_embed.proj = vit_stem(in_channels, model.embed_dim, patch[0])
            return model
    raise ValueError(
        f"model.options.conv_stem: got True with a {type(model).__name__}; allowed: with timm's ConvNeXts, and its "
        "ViTs whose patches' side is a power of two"
    )
