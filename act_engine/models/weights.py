"""Weights from a file into a model, executing nothing that the file holds.

What others wrap around a state dict is seen through: entries of a checkpoint (``state_dict``, ``model``, ``ema`` …),
prefixes of names (``module.``, ``_orig_mod.``, ``1.`` of a normalising Sequential …), a normalising layer's constants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.models.finite import non_finite
from act_engine.models.layers import Normalize
from act_engine.models.position import resample_position_embedding
from act_engine.models.tensor_files import read_tensors
from act_engine.models.timm_models import pretrained_timm

DEPTH = 4
"""Mappings inside mappings that are looked into."""
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a name that torch.compile, FSDP and activation checkpointing put anywhere in it."""
AVERAGED = re.compile(r"(^|[^a-z])(ema|swa|wa|avg|averaged?)([^a-z]|$)")
STATISTICS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
"""Names that normalising layers give their constants."""

Tensors = dict[str, Tensor]


@dataclass
class Fit:
    """How a state dict of a file goes into a model."""

    values: Tensors = field(default_factory=dict)
    """By the model's names."""
    notes: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    only_head: bool = True
    """Whether all the misfits are the classifier's."""


def load_weights(model: nn.Module, path: str | Path, *, new_head: bool = False, entry: str | None = None) -> list[str]:
    """Load a file's state dict into `model`, and return what was seen through or left aside, a line each.

    Args:
        path: safetensors (``*.safetensors``) or a PyTorch file of tensors and plain values alone.
        new_head: leave the model's classifier as it is initialised, whatever the file has for it.
        entry: which of the file's entries, such as ``ema`` or ``models.robust``; None: the one that fits, averaged
            weights before others.

    Raises:
        ValueError: the file cannot be read, would have to be executed, does not fit the model, or holds NaN or
            infinities; the model is then unchanged.
    """
    path = Path(path)
    found = dict(_state_dicts(read_tensors(path)))
    if entry is not None:
        if entry not in found:
            names = ", ".join(name for name in found if name) or "none"
            raise ValueError(f"model.weights_entry: got {entry!r}; allowed with {str(path)!r}: {names}")
        found = {entry: found[entry]}
    if not found:
        raise ValueError(f"{str(path)!r}: holds no plain state dict; save model.state_dict() alone")
    fits = {name: fit(model, tensors, new_head=new_head) for name, tensors in found.items()}
    best = min(fits, key=lambda name: (len(fits[name].misfits), not AVERAGED.search(name.lower())))
    others = [name for name, one in fits.items() if name != best and not one.misfits]
    notes = [f"the weights are its entry {best!r}"] if best else []
    if others:
        notes.append(f"{', '.join(map(repr, others))} would fit too: model.weights_entry says which")
    return [f"{path}: {note}" for note in notes + apply(model, fits[best], str(path))]


def load_pretrained(
    model: nn.Module,
    name: str,
    *,
    image_shape: tuple[int, int, int],
    options: Mapping[str, Any] | None = None,
    new_head: bool = False,
) -> list[str]:
    """Load timm's published weights of its architecture `name` into `model`; returns and raises as `load_weights`.

    They come from timm's cache, or where there is a network from its hub.
    """
    source = pretrained_timm(name, image_shape=image_shape, options=options or {})
    notes = apply(model, fit(model, source.state_dict(), new_head=new_head), f"timm's weights of {name}")
    if (options or {}).get("conv_stem"):
        notes.append("they are a patch stem's; the ConvStem starts anew")
    return [f"timm's {name}: {note}" for note in notes]


def fit(model: nn.Module, tensors: Mapping[str, Tensor], *, new_head: bool) -> Fit:
    """Find out which of `tensors` is which of the model's, and what stands in the way; the model is only read."""
    own = model.state_dict()
    tensors, result = _unwrapped(tensors), Fit()
    prefix, own_prefix = _prefixes(own, tensors)
    if prefix != own_prefix:
        result.notes += [f"the prefix {prefix!r} of its names is taken off"] if prefix else []
        result.notes += [f"{own_prefix!r} is put before its names"] if own_prefix else []
    head = _head(model)
    theirs = {name: prefix + name.removeprefix(own_prefix) for name in own}
    extra = dict(tensors)
    left = []
    for name, value in own.items():
        given = extra.pop(theirs[name], None)
        if new_head and name in head:
            left.append(f"{name} {'' if given is None else list(given.shape)}".strip())
            result.values[name] = value
        elif name.endswith("num_batches_tracked") and (given is None or given.is_floating_point()):
            result.values[name] = value  # files older than this counter, and averages of everything
        elif given is None:
            result.misfits.append(f"{name} is missing")
            result.only_head &= name in head
        else:
            _take(model, name, value, given, result, head)
    if left:
        result.notes.append(f"the classifier starts anew; left: {', '.join(left)}")
    _check_statistics(model, extra, prefix, result)
    for name in extra:
        if not (new_head and _beside(name.removeprefix(prefix), head)):
            result.misfits.append(f"{name} is unknown")
            result.only_head = False
    return result


def apply(model: nn.Module, found: Fit, where: str) -> list[str]:
    """Load what fits and return the notes on it; ValueError, and nothing loaded, if not all of it fits."""
    if found.misfits:
        hint = "; model.num_classes is to fit it, or in training model.head new replaces the classifier"
        hint = hint if found.only_head else ""
        shown = ", ".join(sorted(found.misfits)[:3])
        raise ValueError(f"{where!r}: does not fit the model: {shown} ({len(found.misfits)} in all){hint}")
    if bad := non_finite(found.values):
        raise ValueError(f"{where!r}: {bad[0]} holds NaN or infinities ({len(bad)} in all)")
    model.load_state_dict(found.values)
    return found.notes


def _state_dicts(content: Any) -> Iterator[tuple[str, Tensors]]:
    """Every mapping of names to tensors in a file, as (its place: keys joined by dots, the tensors in it)."""
    waiting, seen = [("", 0, content)], set()
    while waiting:
        place, depth, mapping = waiting.pop(0)
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))  # a file may hold one mapping under many names
        items = {key: value for key, value in mapping.items() if isinstance(key, str)}
        tensors = {key: value.detach() for key, value in items.items() if isinstance(value, Tensor)}
        if tensors:
            yield place, tensors
            yield from _kinds(place, tensors)
        if depth < DEPTH:
            inner = ((key, value) for key, value in items.items() if isinstance(value, Mapping))
            waiting += [(f"{place}.{key}".removeprefix("."), depth + 1, value) for key, value in inner]


def _kinds(place: str, tensors: Tensors) -> Iterator[tuple[str, Tensors]]:
    """A checkpoint of this engine, which is flat: ``model.conv.weight``, ``ema.conv.weight``, an optimizer's state."""
    kinds = {name.partition(".")[0] for name in tensors}
    if {"model"} < kinds <= {"model", "ema", "momentum_buffer", "step", "exp_avg", "exp_avg_sq"}:
        for kind in ("model", "ema"):
            part = {name.partition(".")[2]: value for name, value in tensors.items() if name.startswith(f"{kind}.")}
            if part:
                yield f"{place}.{kind}".removeprefix("."), part


def _unwrapped(tensors: Mapping[str, Tensor]) -> Tensors:
    return {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in tensors.items()
    }


def _prefixes(own: Tensors, tensors: Tensors) -> tuple[str, str]:
    """The file's prefix and the model's own, under which most names are the same; the shortest such."""
    names = list(own)
    anchors = {names[0], names[len(names) // 2], names[-1]} if names else set()
    best = (-1, "", "")
    for own_prefix in _common_prefixes(names):
        bare = [name.removeprefix(own_prefix) for name in names]
        ends = {anchor.removeprefix(own_prefix) for anchor in anchors}
        found = {name.removesuffix(end) for end in ends for name in tensors if f".{name}".endswith(f".{end}")}
        for prefix in sorted(found, key=len):
            count = sum(prefix + name in tensors for name in bare)
            if count > best[0]:
                best = (count, prefix, own_prefix)
    return best[1:]


def _common_prefixes(names: list[str]) -> list[str]:
    """The empty one, and the first parts that all names have in common."""
    prefixes = [""]
    while names and "." in names[0].removeprefix(prefixes[-1]):
        longer = prefixes[-1] + names[0].removeprefix(prefixes[-1]).partition(".")[0] + "."
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return prefixes


def _head(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors: what timm says it is, or else the last linear or convolutional layer."""
    layers: list[nn.Module] = []
    for module in model.modules():
        if callable(getattr(module, "get_classifier", None)):
            found = module.get_classifier()
            layers = list(found) if isinstance(found, tuple | list) else [found]
            break
    else:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1:]
    return {
        f"{path}.{name}".removeprefix(".")
        for path, module in model.named_modules()
        if any(module is layer for layer in layers)
        for name in module.state_dict()
    }


def _beside(name: str, head: set[str]) -> bool:
    """Whether a file's name belongs to a classifier of the same name, such as its bias where the model's has none."""
    return name.rpartition(".")[0] in {own.rpartition(".")[0] for own in head}


def _take(model: nn.Module, name: str, own: Tensor, given: Tensor, result: Fit, head: set[str]) -> None:
    """Note `given` as the value of the model's `own`, or why it cannot be that."""
    plain = given.layout is torch.strided and given.device.type == "cpu" and not given.is_quantized
    if not plain or given.is_floating_point() != own.is_floating_point() or given.is_complex():
        result.misfits.append(f"{name} is {given.dtype}, {given.layout}, the model's {own.dtype}")
        result.only_head = False
        return
    if given.shape != own.shape and name.rpartition(".")[2] == "pos_embed":
        resampled = resample_position_embedding(model.get_submodule(name.rpartition(".")[0]), given, own.shape)
        if resampled is not None:
            result.notes.append(f"{name} is interpolated from {list(given.shape)} to {list(own.shape)}")
            given = resampled
    if given.shape != own.shape:
        result.misfits.append(f"{name} is {tuple(given.shape)}, the model's {tuple(own.shape)}")
        result.only_head &= name in head
        return
    result.values[name] = given


def _check_statistics(model: nn.Module, extra: Tensors, prefix: str, result: Fit) -> None:
    """Hold a normalising layer's constants, which a model of ours does not store, against the model's own."""
    layer = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    for name in list(extra):
        kind = STATISTICS.get(name.rpartition(".")[2])
        beside = name.count(".") <= prefix.count(".") + 1  # a first layer's, or the model's own
        if kind is None or not beside or extra[name].numel() > 16:
            continue
        given = extra.pop(name).flatten().float()
        own = torch.full_like(given, float(kind == "std")) if layer is None else getattr(layer, kind).flatten().cpu()
        # Written by hand to four digits or so, and rounded to whatever precision the file has.
        if given.shape == own.shape and torch.allclose(given, own, rtol=1e-3, atol=1e-6):
            result.notes.append(f"its {name} is the model's model.{kind}")
        else:
            values = [round(value, 6) for value in given.tolist()]
            result.misfits.append(f"{name} is {values}: give these as model.{kind}")
            result.only_head = False
