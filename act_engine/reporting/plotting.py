"""Plots for a light and for a dark page, with matplotlib's file backends alone: no display, no global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# After Okabe and Ito's palette: told apart by the colour-blind; lighter on dark paper.
COLORS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A", "#1B3A57"),
    "dark": ("#56B4E9", "#F0823C", "#2CC295", "#E396C3", "#A5D8FF", "#F2B632", "#A6A6A6", "#7C93FF"),
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
THEMES = {"light": {"ink": "#1f2328", "paper": "#ffffff", "grid": "#d8dee4"}}
THEMES["dark"] = {"ink": "#e6edf3", "paper": "#0d1117", "grid": "#30363d"}


def draw(
    paint: Callable[[Sequence[Axes]], None],
    *,
    theme: str,
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    about: str | None = None,
) -> bytes:
    """A PNG of `rows` × `columns` panels, `size` inches large, that `paint` fills; `about` is its Description chunk.

    Raises:
        ValueError: matplotlib is not installed.
    """
    matplotlib = import_matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(theme)):
        figure: Figure = Figure(figsize=size, dpi=144, layout="constrained")
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        paint(axes)
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None, "Description": about})
    return content.getvalue()


def color(theme: str, place: int) -> str:
    """Of the series number `place`, the same in every plot of a page."""
    return COLORS[theme][place % len(COLORS[theme])]


def marker(place: int) -> str:
    """Of the series number `place`."""
    return MARKERS[place % len(MARKERS)]


def percent_axis(axes: Axes, label: str) -> None:
    """Make the y axis one of percentages from 0 to 100."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel(label)


def _style(theme: str) -> dict[str, object]:
    colors = THEMES[theme]
    ink, paper, grid = colors["ink"], colors["paper"], colors["grid"]
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), ink)
    return {
        **style,
        "axes.edgecolor": grid,
        "axes.facecolor": paper,
        "figure.facecolor": paper,
        "savefig.facecolor": paper,
        "legend.facecolor": paper,
        "legend.edgecolor": grid,
        "legend.framealpha": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "legend.fontsize": 9,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
    }


def import_matplotlib() -> ModuleType:
    """matplotlib; a door that plots at its end asks for it at its beginning.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError('plots need matplotlib: pip install "act-engine[report]"') from None
    return matplotlib
