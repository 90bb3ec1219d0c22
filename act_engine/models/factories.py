"""Architectures that are not ours: ``package.module:factory`` of a user's file, and entry points of packages."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import typing
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.errors import nearest
from act_engine.models.layers import fields
from act_engine.models.options import check_options, one_line, refused

ENTRY_POINTS = "act_engine.models"
"""Group of entry points: name of the architecture = its factory, ``package.module:factory``."""


def plugins() -> dict[str, metadata.EntryPoint]:
    """The architectures that installed packages bring, by name."""
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def import_factory(name: str) -> Callable[..., Any]:
    """What ``package.module:factory`` names; its module may lie in the working directory.

    Raises:
        ValueError: there is no such module, or nothing to call of that name in it.
    """
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        importlib.invalidate_caches()  # the file may be younger than the last look into its folder
        found = util.find_spec(module_name)
    except (ImportError, ValueError):
        found = None
    if found is None:
        files = [path.stem for path in Path.cwd().glob("*.py")]
        raise ValueError(
            f"model.name: got {name!r}; no module {module_name!r} in the working directory or among what is installed"
            f"{nearest(module_name, files, most=3)}"
        )
    try:
        factory = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"model.name: got {name!r}; importing {module_name} raises {one_line(error)}") from error
    for part in path.split("."):
        known = [one for one, value in vars(factory).items() if callable(value) and not one.startswith("_")]
        factory = getattr(factory, part, None)
        if factory is None:
            raise ValueError(f"model.name: got {name!r}; {module_name} has no {part!r}{nearest(part, known, most=3)}")
    if not _makes_modules(factory):
        raise ValueError(
            f"model.name: got {name!r}; allowed: a class derived from nn.Module, a function of a file in the working "
            "directory, or an installed one that is annotated to return an nn.Module"
        )
    return factory


def _makes_modules(factory: Any) -> bool:
    """Whether a name out of a settings file may be called: one that is written to do anything else must not be."""
    if inspect.isclass(factory):
        return issubclass(factory, nn.Module)
    if not inspect.isfunction(factory):
        return False
    file = Path(inspect.getfile(factory)).resolve()
    if file.is_relative_to(Path.cwd()) and not _installed(file):
        return True
    try:
        returned = typing.get_type_hints(factory).get("return")
    except Exception:  # an annotation that cannot be evaluated says nothing
        return False
    return inspect.isclass(returned) and issubclass(returned, nn.Module)


def _installed(file: Path) -> bool:
    """Whether a file is the standard library's or a package's, which the working directory may lie above."""
    folders = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(map(file.is_relative_to, folders)) or not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def call_factory(
    name: str,
    factory: Callable[..., Any],
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    options: Mapping[str, Any],
) -> nn.Module:
    """The module that `factory` returns, given `num_classes` and `image_shape` if it takes them, and the options.

    Raises:
        ValueError: it does not take these options, or returns no nn.Module.
    """
    parameters = inspect.signature(factory).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    ours = {"num_classes": num_classes, "image_shape": image_shape}
    given = {key: value for key, value in ours.items() if key in parameters}
    if open_ended:  # it passes on what it does not know, and nearly everything takes the number of classes
        given["num_classes"] = num_classes
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = [key for key, parameter in parameters.items() if key not in ours and parameter.kind in by_keyword]
    for key in ours.keys() & options.keys():
        raise ValueError(f"model.options.{key}: got {options[key]!r}; it comes from model.num_classes and the data")
    check_options(name, options, known, open_ended=open_ended)
    with refused(name, options):
        model = factory(**given, **options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name: got {name!r}, which returns a {type(model).__name__}; allowed: an nn.Module")
    return model


@torch.no_grad()
def check_logits(name: str, model: nn.Module, num_classes: int, image_shape: tuple[int, int, int]) -> None:
    """Refuse a model that does not turn two images in [0, 1] into logits [2, `num_classes`], and say what it returns.

    It is called once, in eval mode; its mode and the generator's state are as before.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            output = model.eval()(torch.zeros(2, *image_shape))
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("model."):
            raise
        raise ValueError(
            f"model.name: got {name!r}, which fails on images {[2, *image_shape]}: {one_line(error)}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(output, Tensor):
        raise ValueError(
            f"model.output_field: got None; {name} returns a {type(output).__name__} of {fields(output)}: "
            "allowed: the one that holds the logits"
        )
    if not output.is_floating_point() or output.shape != (2, num_classes):
        raise ValueError(
            f"model.name: got {name!r}, which gives {output.dtype} {list(output.shape)} for two images; "
            f"allowed: logits [2, {num_classes}]"
        )
