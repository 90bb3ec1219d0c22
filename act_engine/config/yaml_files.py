"""YAML as settings are written in it, read strictly: no name twice, and no few lines that unfold to billions."""

from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**20
MOST_VALUES = 20_000
"""Values that a text may hold once its aliases are put in: a few lines of aliases of aliases unfold to billions."""


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses what would drop or multiply settings."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {}, set())
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.value in names and isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{key.value!r} stands there twice (line {key.start_mark.line + 1})")
            if isinstance(key, yaml.ScalarNode):
                names.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        ValueError: it holds none, or a name twice in a mapping, or aliases that unfold to too much; one line, which
            begins with `where`.
    """
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(f"{where}: not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{where}: not valid YAML: {said}") from error


def read_text(path: Path, what: str) -> str:
    """The UTF-8 text of a small regular file, with or without a byte order mark.

    Raises:
        ValueError: it cannot be read, is no file or too large, or holds no such text; one line, which begins with
            `what`.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{what}: got {str(path)!r}; allowed: a file, no folder, pipe or device")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{what}: cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise error if str(error).startswith(what) else ValueError(f"{what}: got {str(path)!r}: {error}") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"{what}: got {str(path)!r}, of more than {MOST_BYTES:,} bytes; allowed: a file of settings")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: got {str(path)!r}, whose byte {error.start} is no UTF-8; allowed: UTF-8") from None


def _count(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """The values in a node with its aliases put in; ValueError where there are too many."""
    if id(node) in open_nodes:
        raise ValueError("an alias stands inside what it names")
    if id(node) in known:
        return known[id(node)]
    open_nodes.add(id(node))
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    count = 1 + sum(_count(part, known, open_nodes) for part in inner)
    open_nodes.remove(id(node))
    if count > MOST_VALUES:
        raise ValueError(f"its aliases unfold to more than {MOST_VALUES:,} values")
    known[id(node)] = count
    return count
