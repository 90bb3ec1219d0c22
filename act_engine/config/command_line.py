"""Command lines, read with the same strictness and the same error lines as YAML."""

import dataclasses
import os
import sys
import typing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from act_engine.config import convert
from act_engine.config.reading import OPEN, open_field
from act_engine.errors import nearest


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a user's mistake (ValueError, OSError) into its one line on stderr and exit code 2.

    Under torchrun rank 0 alone prints it: every process reads the same words, and mistakes that only one of them can
    notice reach rank 0 through `World.together`. Once the processes are connected, what is left is one's own, such as
    an image that it cannot read: it says so itself.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or _connected():
            print(f"error: {f'rank {rank}: ' if rank != '0' else ''}{error}", file=sys.stderr)
        raise SystemExit(2) from None


def _connected() -> bool:
    distributed = sys.modules.get("torch.distributed")  # not imported for it: a typo need not wait for torch
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def read_options(
    door: type, argv: Sequence[str], prog: str, *, more_help: Callable[[], str] | None = None
) -> dict[str, Any]:
    """The options given to a door, by dotted name, converted to the types of the dataclass `door`'s fields.

    ``--name value``, ``--name=value``, for true also ``--name``; a field that is itself a dataclass has its fields as
    ``--group.field``; one marked ``metadata={"positional": True}`` takes the word without a name, or all such words if
    it is a tuple. ``--help`` prints every field, then what `more_help` returns, and exits.

    Raises:
        ValueError: an unknown option (the nearest name is suggested), a missing value, or a value that is not allowed.
    """
    if "-h" in argv or "--help" in argv:
        _print_help(door, prog, more_help)
    known, opened = dict(_options(door)), tuple(_open_groups(door))
    positional = next((f.name for f in dataclasses.fields(door) if f.metadata.get("positional")), None)
    options: dict[str, Any] = {}
    words = deque(argv)
    while words:
        word = words.popleft()
        if not word.startswith("--"):
            if positional is not None and typing.get_origin(known[positional]) is tuple:
                options[positional] = (*options.get(positional, ()), word)
                continue
            if positional is None or positional in options:
                raise ValueError(f"unexpected argument {word!r}; options are written --name value (--help lists them)")
            options[positional] = word
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name.startswith(opened):
            known.setdefault(name, OPEN)
        if name not in known:
            raise ValueError(f"--{name}: unknown option{nearest(name, list(known))}; --help lists them all")
        if not equals:
            alone = not words or words[0].startswith("--")
            if alone and known[name] is not bool:
                raise ValueError(f"--{name}: a value is missing")
            value = "true" if alone else words.popleft()
        options[name] = convert(value, known[name], f"--{name}")
    return options


def own_arguments(door: type, options: dict[str, Any]) -> SimpleNamespace:
    """The arguments of a door beside its groups of settings: those given, and for the others the defaults it states."""
    own = [field for field in dataclasses.fields(door) if not dataclasses.is_dataclass(field.type)]
    return SimpleNamespace(**{field.name: options.get(field.name, field.default) for field in own})


def nested(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The dotted ones among `options` as the nested mapping that `act_engine.config.from_mapping` reads."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in options.items():
        if "." in name:
            group, _, setting = name.partition(".")
            groups.setdefault(group, {})[setting] = value
    return groups


def _options(door: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    types = typing.get_type_hints(door)
    for name in (field.name for field in dataclasses.fields(door)):
        if dataclasses.is_dataclass(types[name]):
            yield from _options(types[name], f"{prefix}{name}.")
        elif name != open_field(door):
            yield prefix + name, types[name]


def _open_groups(door: type) -> Iterator[str]:
    for name, kind in typing.get_type_hints(door).items():
        if dataclasses.is_dataclass(kind) and open_field(kind):
            yield f"{name}."


def _print_help(door: type, prog: str, more: Callable[[], str] | None) -> None:
    """Print every field with its explanation and default, and exit."""
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()  # else a mapping would be an option for each of its keys

    @registry.primitive_rule
    def mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        kinds = (info.type, *typing.get_args(info.type))  # itself, or with null beside it
        if not any(typing.get_origin(kind) is dict for kind in kinds):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{NAME: VALUE}",
            instance_from_str=dict,
            is_instance=lambda value: value is None or isinstance(value, dict),
            str_from_instance=lambda value: [str(value)],
        )

    with registry:
        try:
            # What no option can give (a group's open field, what a config lies over) tyro takes as fixed, and hides.
            tyro.cli(door, args=["--help"], prog=prog, config=(tyro.conf.FlagConversionOff, tyro.conf.SuppressFixed))
        finally:
            if more is not None:
                print(more())
