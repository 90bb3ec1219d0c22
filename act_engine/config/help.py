"""What ``--help`` shows: a page of the settings that are used most, one group in full, or everything."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from act_engine.config.reading import open_field
from act_engine.errors import nearest

ALL = "all"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One option of a door, by its full name."""

    name: str
    kind: Any
    default: Any
    text: str
    """Its explanation: the docstring under the field."""

    positional: bool = False
    """Whether it is given without its name."""

    @property
    def group(self) -> str:
        """The group that it is in; empty for the door's own."""
        return self.name.rpartition(".")[0]

    @property
    def word(self) -> str:
        """What stands for it in the usage if it is positional."""
        return f"{self.name.rstrip('s').upper()}{' …' if typing.get_origin(self.kind) is tuple else ''}"


def is_positional(field: dataclasses.Field[Any]) -> bool:
    """Whether a door's field is given without its name."""
    return bool(field.metadata.get("positional"))


def settings_of(door: type, prefix: str = "") -> Iterator[Setting]:
    """Every option that a door has, in the order of its fields, the door's own first."""
    kinds, texts = typing.get_type_hints(door), _explanations(door)
    fields = [field for field in dataclasses.fields(door) if field.name != open_field(door)]
    groups = [field for field in fields if dataclasses.is_dataclass(kinds[field.name])]
    for field in fields:
        if field not in groups:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            yield Setting(
                prefix + field.name, kinds[field.name], default, texts.get(field.name, ""), is_positional(field)
            )
    for field in groups:
        yield from settings_of(kinds[field.name], f"{prefix}{field.name}.")


def help_text(
    door: type, usage: str, topic: str | None, values: Mapping[str, Any], common: Sequence[str], source: str, more: str
) -> str:
    """The page that ``--help`` (topic None), ``--help GROUP``, ``--help SETTING`` or ``--help all`` shows.

    Args:
        door: the dataclass of the options.
        usage: the command.
        values: by full name, what is shown in the defaults' place.
        common: which settings of the groups the short page has.
        source: where those values come from.
        more: text that ends the full page.

    Raises:
        ValueError: there is no such topic.
    """
    width = max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
    settings = list(settings_of(door))
    groups = list(dict.fromkeys(setting.group for setting in settings if setting.group))
    about = inspect.getdoc(door) or ""
    if topic is None:
        return _short(settings, usage, about, values, common, source, groups, width)
    if topic == ALL:
        chosen = settings
    else:
        asked = topic.removeprefix("--").replace("-", "_")
        chosen = [s for s in settings if asked in (s.group, s.name)] or [
            s for s in settings if s.name.rpartition(".")[2] == asked
        ]
    if not chosen:
        allowed = [*groups, ALL]
        known = [*allowed, *(setting.name for setting in settings)]
        raise ValueError(f"--help: got {topic!r}; allowed: {', '.join(allowed)}, or a setting{nearest(topic, known)}")
    lines = [_wrapped(f"usage: {usage}", width), "", _paragraphs(about, width)] if topic == ALL else []
    group = None
    for setting in chosen:
        if setting.group != group:
            group = setting.group
            lines += ["", f"{group}:"] if group else [""]
        lines += _full(setting, values.get(setting.name, setting.default), width)
    if topic in (ALL, "objective") and more:
        lines += ["", more]
    return "\n".join(lines).strip("\n")


def _short(
    settings: Sequence[Setting],
    usage: str,
    about: str,
    values: Mapping[str, Any],
    common: Sequence[str],
    source: str,
    groups: Sequence[str],
    width: int,
) -> str:
    def rows(chosen: Sequence[Setting]) -> list[str]:
        left = [s.word if s.positional else f"--{s.name} {shown(values.get(s.name, s.default))}" for s in chosen]
        column = min(max(map(len, left), default=0), width // 2)
        lines = []
        for words, setting in zip(left, chosen, strict=True):
            words = words if len(words) <= column else f"{words[: column - 1]}…"
            text = textwrap.shorten(" ".join(setting.text.split()), width - column - 4, placeholder=" …")
            lines.append(f"  {words:<{column}}  {text}")
        return lines

    named = {setting.name: setting for setting in settings}
    own = sorted((setting for setting in settings if not setting.group), key=lambda setting: not setting.positional)
    lines = [_wrapped(f"usage: {usage}", width), "", _paragraphs(about, width), "", *rows(own)]
    if common:
        lines += [
            "",
            _wrapped(f"The settings used most, with {source}:", width),
            *rows([named[name] for name in common]),
        ]
    topics = f"--help GROUP for all of a group: {', '.join(groups)}; " if groups else "--help SETTING for one in full, "
    lines += ["", _wrapped(f"{topics}--help {ALL} for everything.", width)]
    return "\n".join(lines)


def _full(setting: Setting, value: Any, width: int) -> list[str]:
    head = f"  {setting.word}" if setting.positional else f"  --{setting.name} {metavar(setting.kind)}"
    text = textwrap.wrap(" ".join(setting.text.split()), width - 8)
    return [*textwrap.wrap(f"{head}  [{shown(value)}]", width, subsequent_indent=" " * 8), *(" " * 6 + t for t in text)]


def shown(value: Any) -> str:
    """A value as it is typed: ``8/255``, ``true``, ``null``, ``60,120``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        whole = round(value * 255)
        return f"{whole}/255" if value == whole / 255 and len(f"{value:g}") > len("0.0001") else f"{value:g}"
    if isinstance(value, tuple | list):
        return ",".join(map(shown, value)) or "none"
    return str(value)


def metavar(kind: Any) -> str:
    """What may be typed for a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(arguments)
    if origin in (typing.Union, types.UnionType):
        return f"{metavar(next(a for a in arguments if a is not type(None)))}|null"
    if origin is tuple:
        return f"{metavar(arguments[0])} …"
    if origin is dict:
        return "'{NAME: VALUE}'"
    return {bool: "true|false", int: "WHOLE-NUMBER", float: "NUMBER"}.get(kind, "TEXT")


def _explanations(door: type) -> dict[str, str]:
    """The docstring under each field, of the class and of those that it comes from."""
    found: dict[str, str] = {}
    for kind in reversed(door.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = text.value.value
    return found


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _paragraphs(text: str, width: int) -> str:
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))
