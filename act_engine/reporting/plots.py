"""The plots of a report, each as a PNG for a light or a dark page: small enough to be read on a telephone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from act_engine.evaluation import wilson
from act_engine.reporting.measure import MeasuredRun
from act_engine.reporting.plotting import THEMES, color, draw, marker, percent_axis
from act_engine.runs.folder import LAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

SIZE = (4.6, 3.3)
"""Inches, at 96 CSS pixels each."""
MOST_CLASSES = 20
"""That a plot by class can show."""
PARTS = ("data wait", "natural forward", "attack", "robust forward", "losses", "backwards", "optimizers", "other")


@dataclass(frozen=True)
class Curves:
    """One panel of what was logged during training: metrics against the step."""

    name: str
    title: str
    label: str
    metrics: tuple[str, ...]
    """The first is drawn solid, others dashed; named in the legend if there are several."""
    scale: float = 1.0


def training_curves(runs: Sequence[MeasuredRun]) -> list[Curves]:
    """The panels that these runs have something for: accuracies first, then losses, then speed."""
    logged = {name for run in runs for record in run.metrics for name in record}
    panels = [
        Curves("robust-loss", "Loss of the robust model", "loss, nats", ("robust_loss",)),
        Curves("natural-loss", "Loss of the natural model", "loss, nats", ("natural_loss",)),
        Curves("lr", "Learning rate", "learning rate", ("lr",)),
        Curves("speed", "Speed", "images / s", ("images_per_second",)),
        Curves("waiting", "Waiting for data", "share of the time, %", ("data_wait_fraction",), 100.0),
    ]
    accuracies = ("held_out_robust_accuracy", "held_out_clean_accuracy")
    panels.insert(0, Curves("accuracy", "Accuracy on held-out images", "accuracy, %", accuracies, 100.0))
    return [panel for panel in panels if logged & set(panel.metrics)]


def plot_training(panel: Curves, runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """One panel, a colour a run; the y axis begins at 0 unless there is something below."""

    def paint(axes: Sequence[Axes]) -> None:
        one, lowest = axes[0], 0.0
        for place, run in enumerate(runs):
            for metric, line in zip(panel.metrics, ("-", "--"), strict=False):
                rows = [row for row in run.metrics if row.get(metric) is not None]
                if not rows:
                    continue
                values = [panel.scale * row[metric] for row in rows]
                kind = metric.removeprefix("held_out_").removesuffix("_accuracy")
                names = [run.name] * (len(runs) > 1) + [kind] * (len(panel.metrics) > 1)
                style = {"color": color(theme, place), "linestyle": line, "label": ", ".join(names)}
                one.plot([row["step"] for row in rows], values, marker="o" if len(rows) == 1 else None, **style)
                lowest = min(lowest, *values)
        one.set_title(panel.title)
        one.set_xlabel("training step")
        one.set_ylabel(panel.label)
        one.set_ylim(bottom=None if lowest < 0 else 0)
        if "%" in panel.label:
            percent_axis(one, panel.label)
        if one.get_legend_handles_labels()[1]:
            one.legend()

    return draw(paint, theme=theme, size=SIZE)


def plot_sweep(runs: Sequence[MeasuredRun], kind: str, theme: str) -> bytes:
    """Robust accuracy of every model against ``"eps"`` or ``"steps"``, with 95 % intervals, under one attack.

    Of one run a colour a model, of several a colour a run: solid its deployed model, dashed the other. The dotted line
    is the training's radius, if in the same norm.
    """

    def paint(axes: Sequence[Axes]) -> None:
        one = axes[0]
        for place, run in enumerate(runs):
            for number, (name, sweeps) in enumerate(run.sweeps.items()):
                rows, samples = sweeps[kind], sweeps["samples"]
                at = [row["at"] for row in rows]
                shares = [100 * row["right"] / samples for row in rows]
                bounds = [wilson(row["right"], samples) for row in rows]
                series = number if len(runs) == 1 else place
                label = f"{name} model" if len(runs) == 1 else ", ".join((run.name, name)[: len(run.sweeps)])
                line = "-" if name == run.model else "--"
                shade = color(theme, series)
                one.plot(at, shares, color=shade, marker=marker(series), linestyle=line, label=label)
                low, high = ([100 * bound[side] for bound in bounds] for side in (0, 1))
                one.fill_between(at, low, high, color=shade, alpha=0.15, linewidth=0)
            if kind == "eps" and run.attack.norm == run.config.attack.norm:
                shade = THEMES[theme]["ink"] if len(runs) == 1 else color(theme, place)
                one.axvline(run.config.attack.eps, color=shade, linewidth=1.2, linestyle=":")
        percent_axis(one, "robust accuracy, %")
        if kind == "eps":
            one.set_title("Larger perturbations")
            one.set_xlabel(f"eps ({runs[0].attack.norm}), of pixels in [0, 1]; dotted: training")
            one.set_xlim(left=0)
        else:
            ticks = [row["at"] for row in next(iter(runs[0].sweeps.values()))["steps"]]
            one.set_title("More steps")
            one.set_xscale("log")
            one.set_xticks(ticks, [str(tick) for tick in ticks])
            one.minorticks_off()
            one.set_xlabel(f"PGD steps, at eps {runs[0].attack.eps:.4g} ({runs[0].attack.norm})")
        one.figure.legend(loc="outside lower center", ncols=2, handlelength=3)

    rows = -(-sum(len(run.sweeps) for run in runs) // 2)
    return draw(paint, theme=theme, size=(SIZE[0], SIZE[1] + 0.2 * rows))


def plot_classes(run: MeasuredRun, theme: str) -> bytes:
    """Accuracy by class, clean and under the evaluation's attack: a bar each; the least robust first."""
    models = run.evaluation["models"]
    shares = models[run.model]["per_class"]
    kinds = [kind for kind in ("robust_accuracy", "clean_accuracy") if kind in shares]
    known = [index for index, share in enumerate(shares[kinds[0]]) if share is not None]
    order = sorted(known, key=lambda index: shares[kinds[0]][index])[:MOST_CLASSES]
    other = next((m for n, m in models.items() if n != run.model and not n.startswith(LAST)), None)

    def paint(axes: Sequence[Axes]) -> None:
        one, height = axes[0], 0.8 / len(kinds)
        for number, kind in enumerate(kinds):
            places = [row + (number - (len(kinds) - 1) / 2) * height for row in range(len(order))]
            label = {"robust_accuracy": "under attack", "clean_accuracy": "clean"}[kind]
            values = [100 * shares[kind][index] for index in order]
            one.barh(places, values, height, color=color(theme, 0), alpha=1 if number == 0 else 0.4, label=label)
            if number == 0 and other is not None and kind in other.get("per_class", {}):
                values = [100 * (other["per_class"][kind][index] or 0) for index in order]
                mark = {"color": color(theme, 1), "linestyle": "none", "markersize": 9, "markeredgewidth": 2}
                one.plot(values, places, "|", label="natural model under attack", **mark)
        one.set_title(f"Accuracy of the {run.model} model by class")
        one.set_yticks(range(len(order)), [_short(run.class_name(index)) for index in order])
        one.set_ylim(len(order) - 0.4, -0.6)
        one.set_xlim(0, 100)
        one.set_xlabel("accuracy, %")
        one.grid(visible=False, axis="y")
        one.figure.legend(loc="outside lower center", ncols=2)

    return draw(paint, theme=theme, size=(SIZE[0], 1.6 + 0.24 * max(len(order), 5)))


def plot_confusion(run: MeasuredRun, theme: str) -> bytes:
    """Which class adversarial images are taken for: a row a true class, shares of the row in percent."""
    counts = confusion(run)
    shares = 100 * counts / counts.sum(1, keepdim=True).clamp_min(1)

    def paint(axes: Sequence[Axes]) -> None:
        one, names = axes[0], [_short(run.class_name(index)) for index in range(run.num_classes)]
        one.imshow(shares.numpy(), cmap="Blues" if theme == "light" else "Blues_r", vmin=0, vmax=100)
        if run.num_classes <= 12:
            for row, column in shares.ge(0.5).nonzero().tolist():
                value = float(shares[row, column])
                dark = (value > 50) == (theme == "light")
                style = {"ha": "center", "va": "center", "fontsize": 8, "color": "#ffffff" if dark else "#1f2328"}
                one.text(column, row, f"{value:.0f}", **style)
        one.set_title("Taken for, under attack, %")
        one.set_xticks(range(run.num_classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
        one.set_yticks(range(run.num_classes), names)
        one.set_xlabel("the model’s answer")
        one.set_ylabel("true class")
        one.grid(visible=False)

    return draw(paint, theme=theme, size=(SIZE[0], SIZE[0]))


def confusion(run: MeasuredRun) -> Tensor:
    """[classes, classes]: how many adversarial images of each true class (row) the model takes for each class."""
    examples, classes = run.examples, run.num_classes
    pairs = (examples.labels * classes + examples.adversarial_class).bincount(minlength=classes**2)
    return pairs.view(classes, classes)


def plot_time(runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """Where a training step's time goes, of the runs that were profiled: a bar a run."""
    profiled = [run for run in runs if run.profile]

    def paint(axes: Sequence[Axes]) -> None:
        left = [0.0] * len(profiled)
        names = [_short(run.name) for run in profiled]
        for place, part in enumerate(PARTS):
            values = [run.profile["milliseconds"].get(part, 0.0) for run in profiled]
            paper = THEMES[theme]["paper"]
            axes[0].barh(names, values, left=left, label=part, color=color(theme, place), edgecolor=paper, height=0.6)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes[0].set_xlabel("ms a training step")
        axes[0].invert_yaxis()
        axes[0].grid(visible=False, axis="y")
        axes[0].figure.legend(loc="outside lower center", ncols=3)

    return draw(paint, theme=theme, size=(SIZE[0], 2.0 + 0.4 * len(profiled)))


def picture(image: Tensor) -> bytes:
    """A PNG of an image [C, H, W], in [0, 1], pixel by pixel: grey if it has one channel, else its first three."""
    from matplotlib.image import imsave

    content = io.BytesIO()
    image = image.clamp(0, 1)
    if len(image) < 3:
        imsave(content, image[0].numpy(), cmap="gray", vmin=0, vmax=1, format="png")
    else:
        imsave(content, image[:3].permute(1, 2, 0).contiguous().numpy(), format="png")
    return content.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
