"""Settings read strictly from recipes, YAML files and the command line, and written as plain mappings.

All sources go through `from_mapping`, so a wrong name or value is met with the same one-line error wherever it was
written.
"""

import copy
import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from act_engine.config.settings import Config, Numbers
from act_engine.config.yaml_files import parse_yaml, read_text
from act_engine.errors import nearest, require, shown


def recipe_names() -> list[str]:
    """Names of the recipes inside the package, sorted."""
    files = resources.files("act_engine").joinpath("recipes").iterdir()
    return sorted(Path(entry.name).stem for entry in files if entry.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe inside the package.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    if name not in recipe_names():
        raise ValueError(f"--recipe: got {name!r}; allowed: {', '.join(recipe_names())}{nearest(name, recipe_names())}")
    return _parse_yaml(
        resources.files("act_engine").joinpath("recipes", f"{name}.yaml").read_text("utf-8"), f"recipe {name}"
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file; a file that is missing or not a mapping of groups is a one-line error."""
    return _parse_yaml(read_text(Path(path), "--config"), str(path))


def read_config(source: str | Path, settings: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """The config of a recipe or of a YAML file, with further settings put over it.

    Args:
        source: a recipe's name, such as ``"digits"``, or a file ``….yaml``.
        settings: by group and name, such as ``{"attack": {"steps": 20}}``.

    Raises:
        ValueError: there is no such recipe or file, or a setting that is unknown or not allowed.
    """
    is_file = isinstance(source, Path) or source.endswith((".yaml", ".yml"))
    base = from_mapping(read_yaml(source) if is_file else read_recipe(str(source)))
    return from_mapping(settings or {}, base)


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    content = parse_yaml(text, where) or {}
    require(
        isinstance(content, dict), where, type(content).__name__, "a mapping of groups such as 'attack: {steps: 10}'"
    )
    return content


def to_mapping(config: Config) -> dict[str, Any]:
    """Plain nested dicts and lists, ready for YAML or JSON; `from_mapping` reads them back to an equal `Config`."""
    return {group.name: _plain_group(getattr(config, group.name)) for group in dataclasses.fields(Config)}


def _plain_group(group: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in vars(group).items():
        if name == open_field(type(group)):
            plain |= value
        else:
            plain[name] = list(value) if isinstance(value, tuple) else copy.deepcopy(value)
    return plain


def from_mapping(mapping: Mapping[str, Any], base: Config | None = None) -> Config:
    """`base` (default: all defaults) with the settings of a nested mapping put over it, strictly.

    The result's `under` is `base`, so that it is known which settings were given to which others. A mapping that has
    every group is what a run wrote down of itself: nobody gave those settings one by one, and `under` is None.

    Raises:
        ValueError: an unknown group or field (the nearest name is suggested), or a value that is not allowed.
    """
    base = base or Config()
    whole = all(group.name in mapping for group in dataclasses.fields(Config))
    groups = {f.name: f.type for f in dataclasses.fields(Config)}
    changed = {}
    for group, values in mapping.items():
        if group not in groups:
            raise ValueError(
                f"{group}: no such group of settings; allowed: {', '.join(groups)}{nearest(str(group), list(groups))}"
            )
        require(
            isinstance(values, Mapping), group, values, f"a mapping of its fields: {', '.join(_types(groups[group]))}"
        )
        field_types = _types(groups[group])
        rest = open_field(groups[group])
        for name in values:
            if name not in field_types and rest is None:
                raise ValueError(
                    f"{group}.{name}: no such setting; allowed: {', '.join(field_types)}{_suggest(group, str(name))}"
                )
        types = {name: field_types.get(name, OPEN) for name in values}
        converted = {name: convert(value, types[name], f"{group}.{name}") for name, value in values.items()}
        if rest is not None:
            own = {name: converted.pop(name) for name in values if name not in field_types}
            converted[rest] = Numbers({**getattr(getattr(base, group), rest), **own})
        changed[group] = dataclasses.replace(getattr(base, group), **converted)
    return dataclasses.replace(base, **changed, under=None if whole else base)


OPEN = float | None
"""Type of what an open group has beside its fields."""


def open_field(group: type) -> str | None:
    """The field in which a group keeps what it has beside its fields; None for a group that is not open."""
    return next((f.name for f in dataclasses.fields(group) if f.metadata.get("open")), None)


def given_settings(config: Config) -> Iterator[tuple[Config, dict[str, Any]]]:
    """The layers that `config` was put together from, the newest first: each with what it gave, by full name.

    That is what differs from the config below it. Of a config that was not read from a mapping nothing is known.
    """
    while config.under is not None:
        mine, below = flat(config), flat(config.under)
        yield config, {name: value for name, value in mine.items() if name not in below or below[name] != value}
        config = config.under


def flat(config: Config) -> dict[str, Any]:
    """Every setting by its full name, ``group.field``."""
    return {f"{group}.{name}": value for group, values in to_mapping(config).items() for name, value in values.items()}


def _suggest(group: str, name: str) -> str:
    known = [f"{g.name}.{f}" for g in dataclasses.fields(Config) for f in _types(g.type)]
    return nearest(f"{group}.{name}", known)


def _types(cls: type) -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if name != open_field(cls)}


def convert(value: Any, kind: Any, setting: str) -> Any:
    """`value`, from YAML or the command line (then a string), as the type `kind`; a fraction is a number too.

    Raises:
        ValueError: it is not such a value; the message names the setting and what is allowed.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        require(value in arguments, setting, value, ", ".join(arguments) + nearest(str(value), arguments))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none")):
            return None
        return convert(value, next(a for a in arguments if a is not type(None)), setting)
    if origin is dict:
        given = _yaml_of(value, setting) if isinstance(value, str) else value
        allowed = "a mapping such as {drop_path_rate: 0.1}"
        require(isinstance(given, Mapping) and all(isinstance(key, str) for key in given), setting, value, allowed)
        return _plain(given, setting)
    if origin is tuple:
        if isinstance(value, str):
            value = [] if value.lower() == "none" else value.strip("[]").split(",")
        items = value
        require(isinstance(items, list | tuple), setting, value, "a list such as [60, 120]")
        return tuple(convert(item, arguments[0], setting) for item in items if item != "")
    if kind is bool:
        names = {"true": True, "false": False}
        require(str(value).lower() in names, setting, value, "true or false")
        return names[str(value).lower()]
    if kind in (int, float):
        number = None if isinstance(value, bool) else _number(value)
        allowed = "a whole number" if kind is int else "a number or a fraction such as 8/255"
        require(number is not None and (kind is float or number == int(number)), setting, value, allowed)
        require(kind is float or abs(number) < 2**53, setting, value, "a whole number below 2 to the power of 53")
        return kind(number)
    require(isinstance(value, str), setting, value, "a text")
    return value


def _yaml_of(text: str, setting: str) -> Any:
    try:
        return parse_yaml(text, setting)
    except ValueError as error:
        raise ValueError(f"{setting}: got {shown(text)}; {str(error).removeprefix(f'{setting}: ')}") from error


def _plain(value: Any, setting: str) -> Any:
    """A value of no declared type: a text that is a number or a fraction becomes one, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: _plain(item, setting) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, setting) for item in value]
    require(isinstance(value, None | bool | int | float | str), setting, value, "numbers, texts, true, false and null")
    number = _number(value) if isinstance(value, str) else None
    return value if number is None else number


def _number(value: Any) -> float | None:
    try:
        numerator, _, denominator = str(value).partition("/")
        number = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None
