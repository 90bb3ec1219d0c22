"""Command lines, read with the same strictness and the same error lines as YAML."""

import dataclasses
import os
import signal
import sys
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from act_engine.config import Config, convert, flat, from_mapping, read_recipe, read_yaml
from act_engine.config.help import help_text, is_positional, settings_of
from act_engine.config.reading import OPEN, open_field
from act_engine.errors import ProcessLost, nearest

COMMON = (
    *("objective.name", "data.name", "data.path", "data.batch_size", "model.name"),
    *("attack.eps", "attack.steps", "optim.lr", "train.epochs", "evaluate.attack"),
)
"""The settings of a run that are given most often."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a user's mistake (ValueError, OSError) into its one line on stderr and exit code 2.

    Under torchrun rank 0 alone prints it: every process reads the same words, and mistakes that only one of them can
    notice reach rank 0 through `World.together`. Once the processes are connected, what is left is one's own, such as
    an image that it cannot read: it says so itself.
    """
    try:
        with ended_by_loss():
            yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("stopped by SIGINT", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # who reads our output has read enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0" or _connected():
            print(f"error: {f'rank {rank}: ' if rank != '0' else ''}{error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def ended_by_loss() -> Iterator[None]:
    """Turn `ProcessLost` into its line on stderr and exit code 1, at once.

    On the usual way to its end this process would be aborted (SIGABRT) by the groups that it shares with the lost one.
    """
    try:
        yield
    except ProcessLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


def _connected() -> bool:
    distributed = sys.modules.get("torch.distributed")  # not imported for it: a typo need not wait for torch
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def read_options(
    door: type,
    argv: Sequence[str],
    prog: str,
    *,
    common: Sequence[str] = (),
    values: Callable[[dict[str, Any]], tuple[Mapping[str, Any], str]] | None = None,
    more_help: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """The options given to a door, by dotted name, converted to the types of the dataclass `door`'s fields.

    ``--name value``, ``--name=value``, for true also ``--name``, for a list also ``--name a b c``; a field that is
    itself a dataclass has its fields as ``--group.field``; one marked ``metadata={"positional": True}`` takes the word
    without a name, or all such words if it is a tuple. ``--help [GROUP | SETTING | all]`` prints a page, and exits.

    Args:
        prog: the command.
        common: the settings of groups that the short page of ``--help`` has.
        values: from the other options, the values of settings by full name, for that page, and where they come from.
        more_help: text at the end of ``--help all``.

    Raises:
        ValueError: an unknown option (the nearest name is suggested), a missing value, or a value that is not allowed.
    """
    argv = list(argv)
    place = next((at for at, word in enumerate(argv) if word in ("-h", "--help")), None)
    if place is None:
        return _parse(door, argv)
    topic = argv[place + 1] if place + 1 < len(argv) and not argv[place + 1].startswith("--") else None
    others = argv[:place] + argv[place + 1 + (topic is not None) :]
    found, source = ({}, "their defaults") if values is None else values(_parse(door, others))
    options = "[--SETTING VALUE …]"
    usage = " ".join([prog, *(setting.word for setting in settings_of(door) if setting.positional), options])
    print(help_text(door, usage, topic, found, common, source, "" if more_help is None else more_help()))
    raise SystemExit(0)


def _parse(door: type, argv: Sequence[str]) -> dict[str, Any]:
    known = {setting.name: setting.kind for setting in settings_of(door)}
    opened = tuple(_open_groups(door))
    positional = next((field.name for field in dataclasses.fields(door) if is_positional(field)), None)
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
            raise ValueError(f"--{name}: unknown option{_suggest(name, list(known))}; --help all lists them")
        if not equals:
            alone = not words or words[0].startswith("--")
            if alone and known[name] is not bool:
                raise ValueError(f"--{name}: a value is missing")
            value = "true" if alone else words.popleft()
            if typing.get_origin(known[name]) is tuple:
                numbers = typing.get_args(known[name])[0] in (int, float)
                while words and (_is_number(words[0]) if numbers else _is_item(words[0], positional, options)):
                    value += f",{words.popleft()}"
        options[name] = convert(value, known[name], f"--{name}")
    return options


def _is_number(word: str) -> bool:
    try:
        convert(word, float, "")
    except ValueError:
        return False
    return True


def _is_item(word: str, positional: str | None, options: Mapping[str, Any]) -> bool:
    """Whether a word after a list of texts goes on with it: it does once the words without a name have been given."""
    return not word.startswith("--") and (positional is None or positional in options)


def _suggest(name: str, known: Sequence[str]) -> str:
    """The settings of that name in any group, or else the nearest."""
    same = [option for option in known if option.rpartition(".")[2] == name]
    if same:
        return f"; did you mean {' or '.join(map(repr, same))}?"
    return nearest(name, known)


def chosen_config(options: dict[str, Any]) -> Config:
    """The config of ``--recipe`` or ``--config``, with the other settings among `options` put over it.

    Raises:
        ValueError: neither or both of the two are given, or a setting is not allowed.
    """
    recipe, file = options.get("recipe"), options.get("config")
    if (recipe is None) == (file is None):
        raise ValueError("--recipe or --config: give exactly one of the two, such as --recipe digits")
    base = read_recipe(recipe) if recipe is not None else read_yaml(file)
    return from_mapping(nested(options), from_mapping(base))


def chosen_values(options: dict[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The settings' values by full name as the other options have them, and where they come from, for ``--help``."""
    if options.get("recipe") is None and options.get("config") is None:
        return flat(from_mapping(nested(options))), "their defaults (--recipe NAME --help shows a recipe's)"
    return flat(chosen_config(options)), f"the values of {options.get('recipe') or options.get('config')}"


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


def _open_groups(door: type) -> Iterator[str]:
    for name, kind in typing.get_type_hints(door).items():
        if dataclasses.is_dataclass(kind) and open_field(kind):
            yield f"{name}."
