"""The data sets by name: each says in one place how it is read, which settings it has, and what a plan counts on.

A package from outside adds its own by an entry point of the group ``act_engine.data`` that names a `Source`:

    [project.entry-points."act_engine.data"]
    squares = "squares_data:SOURCE"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from act_engine.data.splits import Splits
from act_engine.errors import nearest

GROUP = "act_engine.data"
BUILT_IN = ("digits", "textures", "cifar", "npz", "image_folder", "webdataset")  # modules of this package
STREAM_SETTINGS = ("image_size", "eval_resize", "train_sizes", "train_size_epochs", "decode")
SHARED_SETTINGS = (
    *("classes", "train_samples", "validation_samples", "selection_samples", "label_noise", "seed"),
    *("extra", "extra_share", "extra_once", "extra_only_epochs", "epoch_images"),
    *("policy", "jitter", "erasing"),
)


class Facts(NamedTuple):
    """What a plan counts on."""

    images: int  # to train on
    num_classes: int
    shape: tuple[int, int, int] | None  # (channels, height, width) of a picture; None: as the setting image_size says


@dataclass(frozen=True)
class Source:
    """A data set that `build_data` can read.

    `load` returns its `Splits`: `Pictures` in memory or, with `streamed`, `ImageFiles` that DALI decodes. The names of
    its keyword arguments are the settings that it has, beside those of every data set.
    """

    name: str
    load: Callable[..., Splits]
    usual: Facts | None = None
    """What a plan counts on without the data at hand; None: it has to be read."""
    augmentations: tuple[str, ...] = ("none",)
    """What it can do to training images; the first is its usual one."""
    streamed: bool = False

    @cached_property
    def own_settings(self) -> frozenset[str]:
        """Those that its `load` takes."""
        return frozenset(inspect.signature(self.load).parameters)

    @cached_property
    def settings(self) -> frozenset[str]:
        """The settings that change what this data set gives."""
        return frozenset((*self.own_settings, *SHARED_SETTINGS, *(STREAM_SETTINGS if self.streamed else ())))

    def read(self, options: Mapping[str, Any]) -> Splits:
        """Call `load` with those of `options` that it takes."""
        return self.load(**{name: options[name] for name in self.own_settings})


def sources() -> dict[str, Source]:
    """Every known data set by name: the built-in ones, then those of installed packages.

    Raises:
        ValueError: a package's entry point cannot be loaded, or takes a name that is taken.
    """
    found: dict[str, Source] = {}
    for module in BUILT_IN:
        for source in import_module(f"act_engine.data.{module}").SOURCES:
            found[source.name] = source
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            source = entry.load()
        except Exception as error:  # a stranger's code: whatever it raises, the user learns which package it is
            raise ValueError(
                f"data.name: the data set {entry.name!r} ({entry.value}) cannot be loaded: {error}"
            ) from error
        if not isinstance(source, Source) or source.name in found:
            raise ValueError(
                f"data.name: the entry point {entry.name!r} ({entry.value}) names {source!r:.80}; "
                "allowed: an act_engine.data.Source with a name of its own"
            )
        found[source.name] = source
    return found


def find_source(name: str) -> Source:
    """The data set called `name`; ValueError with the nearest name where there is none."""
    known = sources()
    if name not in known:
        raise ValueError(f"data.name: got {name!r}; allowed: {', '.join(known)}{nearest(name, list(known))}")
    return known[name]
