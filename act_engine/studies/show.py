"""A study's result as tables and as a plot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from act_engine.evaluation.table import describe_attack
from act_engine.reporting.analysis import table_rows
from act_engine.reporting.numbers import mean_and_deviation
from act_engine.reporting.plotting import color, draw, marker
from act_engine.studies.protocol import METHODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy_table(result: dict[str, Any]) -> str:
    """Markdown: accuracies on the test images, mean ± sample standard deviation over the seeds, and how they arose."""
    images, budget = result["images"], len(next(iter(METHODS.values())).values)
    about = (
        f"**{result['study']}**: {result['seeds']} seeds, {result['epochs']} epochs; {images['test']} test images "
        f"under {describe_attack(result['attack'])}; AutoAttack standard on {images['autoattack']} of them. Each "
        f"method's parameter was chosen out of {budget} values on {images['validation']} "
        "held-out training images (seed 0, PGD-20), by robust accuracy (natural training: clean)."
    )
    lines = [
        about,
        "",
        "| method | parameter chosen | clean % | PGD % | AutoAttack % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method, rows in result["test"].items():
        search = result["search"][method]
        columns = ("clean_accuracy", "robust_accuracy", "autoattack_accuracy")
        cells = [mean_and_deviation([100 * row[column] for row in rows]) for column in columns]
        chosen = f"{search['parameter']} = {search['chosen']:g}"
        lines.append(f"| {METHODS[method].label} | {chosen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def analysis_table(result: dict[str, Any]) -> str:
    """Markdown: the analyses, mean ± sample standard deviation over the seeds."""
    values, settings = result["analysis"]["values"], result["analysis"]["settings"]
    about = f"The analyses, on {settings['samples']} of the test images"
    if "complexity" in settings["analyses"] and settings["noise"]:
        noise = " and ".join(f"{100 * share:g} %" for share in settings["noise"])
        epochs = settings["epochs"] or result["epochs"]
        about += f"; the trainings on random labels ({noise} of them drawn) last {epochs} epochs"
    lines = [f"{about}.", ""]
    lines += ["| measure | " + " | ".join(METHODS[m].label for m in values) + " |", "| --- |" + " --- |" * len(values)]
    return "\n".join(lines + table_rows(list(values.values())))


def plot_study(result: dict[str, Any], theme: str = "light") -> bytes:
    """A PNG: on the test images a point a seed; on the held-out ones a curve a method over its parameter.

    Of a curve the ends are labelled with the parameter's values. Natural training has no such curve: it has no robust
    accuracy to trade.
    """

    def paint(axes: Sequence[Axes]) -> None:
        test, search = axes
        for place, method in enumerate(result["test"]):
            style = {"color": color(theme, place), "marker": marker(place), "label": METHODS[method].label}
            rows = result["test"][method]
            test.plot(*_points(rows), linestyle="none", alpha=0.8, **style)
            rows = result["search"][method]["rows"]
            if method == "natural":
                continue
            search.plot(*_points(rows), alpha=0.8, **style)
            for row in (rows[0], rows[-1]):
                at = (100 * row["clean_accuracy"], 100 * row["robust_accuracy"])
                text = f"{row['value']:g}"
                search.annotate(text, at, (5, 4), textcoords="offset points", fontsize=8, color=style["color"])
        test.set_title("test images, a point a seed")
        test.set_ylabel(f"accuracy under PGD-{result['attack']['steps']}, %")
        search.set_title("held-out images, a curve a method over its parameter")
        search.set_ylabel("accuracy under PGD-20, %")
        for one in axes:
            one.set_xlabel("clean accuracy, %")
            one.margins(0.12)
        test.figure.legend(*test.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    return draw(paint, theme=theme, size=(11, 5.2), columns=2, about=plotted_digest(result))


def plotted_digest(result: dict[str, Any]) -> str:
    """Of the values that `plot_study` shows: the plot carries it, so that it can be told which result it is of."""
    return hashlib.sha256(json.dumps([result["test"], result["search"]], sort_keys=True).encode()).hexdigest()


def _points(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [100 * row["clean_accuracy"] for row in rows], [100 * row["robust_accuracy"] for row in rows]
