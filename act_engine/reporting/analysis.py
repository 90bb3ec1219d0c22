"""The three analyses of runs as a table, and as one picture: a colour per method, a point per run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from act_engine.reporting.numbers import significant
from act_engine.reporting.plotting import color, draw, marker, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = {
    "complexity": (
        ("Random labels learnt", "share, %", "lower", ("complexity", "noise", 0, "fitted_noise")),
        ("Spectral norm / margin", "log10", "lower", ("complexity", "norms", "log10_spectral_norm")),
    ),
    "compression": (
        ("Probe on random labels", "training accuracy, %", "lower", ("compression", "probe_accuracy")),
        ("Effective rank of the features", "dimensions", "lower", ("compression", "effective_rank")),
    ),
    "flatness": (
        ("Posterior entropy, clean images", "nats", "higher", ("flatness", "clean", "entropy")),
        ("Top Hessian eigenvalue, relative", "nats", "lower", ("flatness", "clean", "relative_top_eigenvalue")),
        ("Accuracy under weight noise", "accuracy, %", "higher", ("flatness", "clean", "accuracy")),
        ("Loss under weight noise", "cross-entropy, nats", "lower", ("flatness", "clean", "loss")),
    ),
}
"""A panel's title, unit, the direction that the paper claims for ACT, and where its values stand in an analysis."""

MEASURES = {
    "random labels learnt, %": ("complexity", "noise", 0, "fitted_noise"),
    "other labels learnt, %": ("complexity", "noise", 0, "fitted_rest"),
    "spectral norm / margin, log10": ("complexity", "norms", "log10_spectral_norm"),
    "path norm / margin, log10": ("complexity", "norms", "log10_path_norm"),
    "probe fits random labels, %": ("compression", "probe_accuracy"),
    "effective rank of the features": ("compression", "effective_rank"),
    "intrinsic dimension of the features": ("compression", "intrinsic_dimension"),
    "entropy on clean images, nats": ("flatness", "clean", "entropy"),
    "entropy on adversarial images, nats": ("flatness", "adversarial", "entropy"),
    "accuracy at the largest weight noise, %": ("flatness", "clean", "accuracy", -1),
    "top Hessian eigenvalue": ("flatness", "clean", "top_eigenvalue"),
    "the same, relative to the weights": ("flatness", "clean", "relative_top_eigenvalue"),
}
"""Where the table's rows stand in an analysis."""


def format_table(analysis: dict[str, Any]) -> str:
    """A Markdown table: a row a measure, a column a method, mean ± sample standard deviation over its runs."""
    methods = analysis["methods"]
    lines = ["| measure | " + " | ".join(methods) + " |", "| --- |" + " --- |" * len(methods)]
    return "\n".join(lines + table_rows([method["values"] for method in methods.values()]))


def table_rows(columns: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
    """The Markdown rows of a table with a column for each group of runs, without measures that no run has."""
    rows = []
    for measure, path in MEASURES.items():
        values = [[pick(run, path) for run in runs] for runs in columns]
        if any(value is not None for group in values for value in group):
            scale = 100 if measure.endswith("%") else 1
            rows.append(f"| {measure} | " + " | ".join(significant(group, scale) for group in values) + " |")
    return rows


def pick(values: Any, path: Sequence[str | int]) -> Any:
    """The value at a path of keys and places, or None where it was not asked for."""
    for key in path:
        try:
            values = values[key]
        except (KeyError, IndexError):
            return None
    return values


def plot_analysis(analysis: dict[str, Any], theme: str = "light") -> bytes:
    """A PNG of the result of `analyze_runs`; where a method has several runs, lines are means with one deviation.

    An arrow says which way the paper claims ACT to lie; axes begin at 0, but for logarithms.
    """
    runs = [run for method in analysis["methods"].values() for run in method["values"]]
    panels = [
        panel for row in PANELS.values() for panel in row if any(pick(run, panel[-1]) is not None for run in runs)
    ]
    rows = -(-len(panels) // 2)

    def paint(axes: Sequence[Axes]) -> None:
        for one, (title, label, claimed, path) in zip(axes, panels, strict=False):
            one.set_title(f"{title} ({'↓' if claimed == 'lower' else '↑'} claimed)")
            values = {name: [pick(run, path) for run in method["values"]] for name, method in methods.items()}
            if isinstance(path[-1], str) and path[-1] in ("accuracy", "loss"):
                _lines(one, analysis["settings"]["sigmas"], values, 100 if "%" in label else 1, theme)
            else:
                _points(one, values, 100 if "%" in label else 1, theme)
            if "%" in label:
                percent_axis(one, label)
            else:
                one.set_ylabel(label)
                if label != "log10":
                    one.set_ylim(bottom=min(0, one.get_ylim()[0]) if one.dataLim.y0 < 0 else 0)
        for spare in axes[len(panels) :]:
            spare.set_axis_off()

    methods = analysis["methods"]
    width = 10 if len(methods) < 5 else 12
    return draw(paint, theme=theme, size=(width, 3.2 * rows + 0.25 * len(methods)), rows=rows, columns=2)


def _points(axes: Axes, values: dict[str, list[float | None]], scale: float, theme: str) -> None:
    for place, runs in enumerate(values.values()):
        runs = [scale * run for run in runs if run is not None]
        axes.plot([place] * len(runs), runs, marker(place), color=color(theme, place), alpha=0.6)
        if runs:
            axes.plot([place - 0.25, place + 0.25], [statistics.mean(runs)] * 2, color=color(theme, place))
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_xticks(range(len(values)), list(values), rotation=20, ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")


def _lines(axes: Axes, sigmas: Sequence[float], values: dict[str, list[list[float]]], scale: float, theme: str) -> None:
    for place, (label, runs) in enumerate(values.items()):
        columns = [[scale * value for value in column] for column in zip(*runs, strict=True)]
        means = [statistics.mean(column) for column in columns]
        axes.plot(sigmas, means, marker=marker(place), color=color(theme, place), label=label)
        if len(runs) > 1:
            spread = [statistics.stdev(column) for column in columns]
            low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(sigmas, low, high, color=color(theme, place), alpha=0.2, linewidth=0)
    axes.set_xlabel("noise on the weights, relative to their norm")
    axes.legend()
