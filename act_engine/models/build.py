"""Classifiers by name: they take images in [0, 1] and give logits, whatever their architecture takes and gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from act_engine.models import cifar, robustbench, timm_models
from act_engine.models.factories import call_factory, check_logits, import_factory, plugins
from act_engine.models.layers import Logits, Normalize
from act_engine.models.options import check_options, refused
from act_engine.models.small_cnn import SmallCNN

OWN: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "cifar_resnet18": cifar.resnet18,
    "cifar_preact_resnet18": cifar.preact_resnet18,
    "robustbench_preact_resnet18": robustbench.preact_resnet18,
    "robustbench_ra_wrn70_16": robustbench.ra_wide_resnet,
}
WIDE = {"cifar_wrn": cifar.wide_resnet, "robustbench_wrn": robustbench.wide_resnet}
WIDE_NAME = re.compile(r"(cifar_wrn|robustbench_wrn)(\d{1,4})_(\d{1,3})")

INPUTS = ("unit", "normalized", "byte")
OUTPUTS = ("logits", "probabilities", "log_probabilities")


def model_names() -> list[str]:
    """Return the names of this package's own architectures, the usual WideResNets among them, and of the plugins'."""
    usual = ("cifar_wrn28_10", "cifar_wrn34_10", "robustbench_wrn28_10", "robustbench_wrn70_16", "robustbench_wrn94_16")
    return [*OWN, *usual, *plugins()]


def build_model(
    name: str | Callable[..., nn.Module],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    input: str = "unit",
    output: str = "logits",
    output_field: str | None = None,
) -> nn.Module:
    """Return a freshly initialised classifier of [0, 1] images `[B, *image_shape]` with logits `[B, num_classes]`.

    Args:
        name: one of `model_names()`, any ``cifar_wrn{depth}_{width}`` or ``robustbench_wrn{depth}_{width}``, any of
            timm's, ``package.module:factory`` of an importable file, or such a factory itself. A factory is called with
            `num_classes` and `image_shape`, if it takes them, and with `options`.
        mean, std: one value a channel, for images in [0, 1]: they are normalised so in the first layer, and an attack's
            eps stays in pixel units. RobustBench's layouts do it inside, by default with CIFAR's values.
        options: keyword arguments of the architecture, such as ``{"drop_path_rate": 0.1}``.
        input: what the architecture takes: ``"unit"``: images in [0, 1], or normalised by mean and std;
            ``"normalized"``: the same, with timm's mean and std where none are given; ``"byte"``: images in [0, 255].
        output: what it gives: ``"logits"``, ``"log_probabilities"`` (which are logits too) or ``"probabilities"``.
        output_field: where in a tuple, list, mapping or dataclass that stands: an index, key or attribute; None: it is
            returned alone.

    Raises:
        ValueError: an unknown name or option (with the nearest ones), or a value that does not fit.
    """
    if num_classes < 1:
        raise ValueError(f"model.num_classes: got {num_classes}; allowed: 1 or more")
    for setting, value, allowed in (("input", input, INPUTS), ("output", output, OUTPUTS)):
        if value not in allowed:
            raise ValueError(f"model.{setting}: got {value!r}; allowed: {', '.join(allowed)}")
    options = dict(options or {})
    mean, std = statistics(name, num_classes=num_classes, image_shape=image_shape, mean=mean, std=std, input=input)
    own = _own(name)
    foreign = None if own else _factory(name)
    if own is not None:
        inside = {"mean": mean, "std": std} if _normalises(own) else {}
        known = [key for key, p in inspect.signature(own).parameters.items() if p.kind is p.KEYWORD_ONLY]
        check_options(name, options, known)
        with refused(name, options):
            model = own(num_classes=num_classes, in_channels=image_shape[0], **inside, **options)
        mean, std = (None, None) if inside else (mean, std)
    elif foreign is not None:
        model = call_factory(text(name), foreign, num_classes=num_classes, image_shape=image_shape, options=options)
    else:
        model = timm_models.build_timm(
            name, num_classes=num_classes, image_shape=image_shape, options=options, known=model_names()
        )
    layers = [] if mean is None else [Normalize(mean, std)]
    layers.append(model)
    if output_field is not None or output == "probabilities":
        layers.append(Logits(output_field, output))
    model = nn.Sequential(*layers) if len(layers) > 1 else model
    if foreign is not None:
        check_logits(text(name), model, num_classes, image_shape)
    return model


def statistics(
    name: str | Callable[..., nn.Module],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input: str,
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """The mean and std a channel that `build_model` normalises with; None, None: it does not.

    Raises:
        ValueError: one is given without the other, not one a channel, or `input` needs them and nothing knows them.
    """
    if (mean is None) != (std is None):
        raise ValueError("model.mean and model.std: give both or neither")
    if input == "byte":
        if mean is not None:
            raise ValueError("model.input: got 'byte'; allowed: unit, with model.mean and model.std divided by 255")
        mean, std = [0.0] * image_shape[0], [1 / 255] * image_shape[0]
    elif mean is None:
        own = _own(name)
        if own is not None and _normalises(own) and image_shape[0] == 3:
            mean, std = robustbench.cifar_statistics(num_classes)
        elif input == "normalized":
            mean, std = _timms_statistics(name, image_shape[0])
    if mean is not None and len(mean) != image_shape[0]:
        raise ValueError(f"model.mean: got {list(mean)}; allowed: {image_shape[0]} values, one per channel")
    return mean, std


def _timms_statistics(name: str | Callable[..., nn.Module], channels: int) -> tuple[Sequence[float], Sequence[float]]:
    got = "model.input: got 'normalized', as model.pretrained has it, without model.mean and model.std"
    if _own(name) is not None or _factory(name) is not None:
        raise ValueError(f"{got}; allowed: with timm's models alone, and not with {text(name)}")
    mean, std = timm_models.statistics(name)
    if len(mean) != channels:
        raise ValueError(f"{got}; timm's weights of {name} expect {len(mean)} channels, the images have {channels}")
    return mean, std


def _own(name: str | Callable[..., nn.Module]) -> Callable[..., nn.Module] | None:
    """This package's constructor of that name, if it has one."""
    if callable(name):
        return None
    wide = WIDE_NAME.fullmatch(name)
    return partial(WIDE[wide[1]], int(wide[2]), int(wide[3])) if wide else OWN.get(name)


def _normalises(own: Callable[..., nn.Module]) -> bool:
    return "mean" in inspect.signature(own).parameters


def _factory(name: str | Callable[..., nn.Module]) -> Callable[..., Any] | None:
    """A user's factory, or an installed package's; None: the name can be but one of timm's."""
    if callable(name):
        return name
    if ":" in name:
        return import_factory(name)
    plugin = plugins().get(name)
    return None if plugin is None else plugin.load()


def text(name: str | Callable[..., nn.Module]) -> str:
    """The name of an architecture, as a setting has it."""
    return name if isinstance(name, str) else f"{name.__module__}:{name.__qualname__}"
