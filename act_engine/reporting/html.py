"""Markup in which everything that came from outside is escaped: only `element` makes it."""

from collections.abc import Iterable, Sequence
from html import escape

VOID = ("img", "link", "meta", "source")
"""Elements without content and end."""


class Html(str):
    """A whole piece of markup, made by `element`; any other string is text, and is escaped where it is put in."""

    __slots__ = ()


def element(tag: str, /, *content: str, **attributes: object) -> Html:
    """An element with its content; a `content` that is no `Html` is text, and is escaped, as attributes always are.

    In an attribute's name ``class_`` stands for ``class``, ``aria_label`` for ``aria-label``; None leaves it out.
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join([f"<{tag}", *(f' {key}="{escape(str(value))}"' for key, value in named.items()), ">"])
    return Html(start if tag in VOID else f"{start}{joined(content)}</{tag}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Pieces of markup and of text after one another."""
    return Html(between.join(part if isinstance(part, Html) else escape(part) for part in parts))


def paragraph(text: str, kind: str | None = None) -> Html:
    """A paragraph of a class that the page's style knows."""
    return element("p", text, class_=kind)


def details(summary: str, text: str) -> Html:
    """A text that is shown as it is, when it is asked for."""
    return element("details", element("summary", summary), element("pre", text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str | None = None) -> Html:
    """A table that scrolls by itself where it is wider than the page; an empty `head` is left out."""
    top = [element("tr", *(element("th", name) for name in head))] if any(head) else []
    body = (element("tr", *(element("td", value) for value in row)) for row in rows)
    return element("div", element("table", *top, *body, class_=kind), class_="wide")
