"""The objectives by name: which there are, what they are called, and which numbers of their own they have.

A package from outside adds its own by an entry point of the group ``act_engine.objectives`` that names a class:

    [project.entry-points."act_engine.objectives"]
    hinge = "hinge_training:Hinge"
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from act_engine.errors import nearest
from act_engine.objectives.base import Objective, number_ranges

GROUP = "act_engine.objectives"
BUILT_IN = ("act", "natural", "madry", "trades", "mart", "lbgat", "rslad")  # modules of this package


def objectives() -> dict[str, type[Objective]]:
    """Every known objective's class by name: the built-in ones, then those of installed packages.

    Raises:
        ValueError: a package's entry point cannot be loaded, or takes a name that is taken.
    """
    found: dict[str, type[Objective]] = {}
    for module in BUILT_IN:
        for kind in vars(import_module(f"act_engine.objectives.{module}")).values():
            if _is_objective(kind):
                found[kind.name] = kind
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            kind = entry.load()
        except Exception as error:  # a stranger's code: whatever it raises, the user learns which package it is
            raise ValueError(
                f"objective.name: the objective {entry.name!r} ({entry.value}) cannot be loaded: {error}"
            ) from error
        if not _is_objective(kind) or kind.name in found:
            raise ValueError(
                f"objective.name: the entry point {entry.name!r} ({entry.value}) names {kind!r:.80}; "
                "allowed: a subclass of act_engine.objectives.Objective with a name of its own, a frozen dataclass"
            )
        found[kind.name] = kind
    return found


def find_objective(name: str) -> type[Objective]:
    """The class of the objective called `name`; ValueError with the nearest name where there is none."""
    known = objectives()
    if name not in known:
        raise ValueError(f"objective.name: got {name!r}; allowed: {', '.join(known)}{nearest(name, list(known))}")
    return known[name]


def build_objective(name: str, **numbers: float | None) -> Objective:
    """The training method called `name`.

    Args:
        numbers: its own numbers, by name; None, and what is not given: the method's own value.

    Raises:
        ValueError: there is no such method, it has no such number, or the number is out of its range.
    """
    kind = find_objective(name)
    known, types = number_names(kind), typing.get_type_hints(kind)
    given = {}
    for key, value in numbers.items():
        if key not in known:
            allowed = ", ".join(known) or "none, it has no numbers"
            raise ValueError(
                f"objective.{key}: got {value!r}; allowed with objective {name}: {allowed}{nearest(key, known)}"
            )
        if value is not None:
            whole = types[key] is int and float(value).is_integer()
            if types[key] is int and not whole:
                raise ValueError(f"objective.{key}: got {value!r}; allowed: a whole number")
            given[key] = int(value) if whole else value
    return kind(**given)


def number_names(kind: type[Objective]) -> tuple[str, ...]:
    """The names of an objective's own numbers, in its own order."""
    return tuple(number_ranges(kind))


def own_numbers(objective: Objective) -> Mapping[str, float]:
    """The numbers of an objective, by name, in its own order."""
    return {name: getattr(objective, name) for name in number_names(type(objective))}


def describe_objectives() -> str:
    """Every objective with its label and its numbers, for ``--help``."""
    lines = ["objectives (--objective.name), each with numbers of its own:"]
    for name, kind in objectives().items():
        lines += ["", f"  {name}: {kind.label}"]
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        for key, allowed in number_ranges(kind).items():
            text = f"{allowed}, by default {defaults[key]:g}; {allowed.meaning}".rstrip("; ")
            option = f"    --objective.{key}  "
            lines += textwrap.wrap(option + text, 100, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _is_objective(kind: object) -> bool:
    concrete = inspect.isclass(kind) and issubclass(kind, Objective) and kind is not Objective
    return concrete and dataclasses.is_dataclass(kind) and isinstance(getattr(kind, "name", None), str)
