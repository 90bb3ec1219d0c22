"""The plots of a report, each as a PNG for a light or a dark page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from act_engine.evaluation import wilson
from act_engine.reporting.measure import MeasuredRun
from act_engine.reporting.plotting import THEMES, color, draw, marker, percent_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

RIGHT, WRONG = {"light": "#1a7f37", "dark": "#3fb950"}, {"light": "#cf222e", "dark": "#ff7b72"}
HELD_OUT = {
    "held_out_clean_accuracy": "Clean accuracy on held-out images",
    "held_out_robust_accuracy": "Robust accuracy on held-out images",
}
PARTS = ("data wait", "natural forward", "attack", "robust forward", "losses", "backwards", "optimizers", "other")


def plot_curves(runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """Losses, learning rate, speed and waiting against the training step."""
    losses = [name for name in ("robust_loss", "natural_loss") if any(name in run.metrics[0] for run in runs)]
    panels = [(name, f"{name.removesuffix('_loss').capitalize()} model", "loss, nats", 1.0) for name in losses]
    panels += [
        ("lr", "Learning rate", "learning rate", 1.0),
        ("images_per_second", "Speed", "images / s", 1.0),
        ("data_wait_fraction", "Waiting for data", "share of the time, %", 100.0),
    ]
    measured = [name for name in HELD_OUT if any(name in row for row in runs[0].metrics)]
    panels += [(name, HELD_OUT[name], "accuracy, %", 100.0) for name in measured]

    def paint(axes: Sequence[Axes]) -> None:
        for one, (name, title, label, scale) in zip(axes, panels, strict=False):
            for place, run in enumerate(runs):
                rows = [row for row in run.metrics if name in row]
                steps, values = [row["step"] for row in rows], [scale * row[name] for row in rows]
                one.plot(
                    steps, values, color=color(theme, place), label=run.name, marker="o" if len(rows) == 1 else None
                )
            one.set_title(title)
            one.set_xlabel("training step")
            one.set_ylabel(label)
            one.set_ylim(bottom=0)
            if name == "data_wait_fraction":
                percent_axis(one, label)
        if len(runs) > 1:
            axes[0].legend()
        for spare in axes[len(panels) :]:
            spare.set_axis_off()

    rows = -(-len(panels) // 2)
    return draw(paint, theme=theme, size=(10, 3 * rows), rows=rows, columns=2)


def plot_against_eps(runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """Robust accuracy against the ball's radius, with 95 % intervals; marked: the training's, if in the same norm."""

    def paint(axes: Sequence[Axes]) -> None:
        _sweep(axes[0], runs, "eps", theme)
        for place, run in enumerate(runs):
            if run.examples.attack.norm == run.config.attack.norm:
                axes[0].axvline(run.config.attack.eps, color=color(theme, place), linewidth=1.6, linestyle=":")
        norms = " or ".join(dict.fromkeys(run.examples.attack.norm for run in runs))
        axes[0].set_xlabel(f"eps ({norms}), pixel range [0, 1]; dotted: in training")
        axes[0].set_xlim(left=0)

    return draw(paint, theme=theme, size=(7, 4))


def plot_against_steps(runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """Robust accuracy at the evaluation's radius against the attack's iterations, with 95 % intervals."""

    def paint(axes: Sequence[Axes]) -> None:
        _sweep(axes[0], runs, "steps", theme)
        axes[0].set_xscale("log")
        ticks = [row["at"] for row in runs[0].sweeps["steps"]]
        axes[0].set_xticks(ticks, [str(tick) for tick in ticks])
        axes[0].minorticks_off()
        axes[0].set_xlabel("PGD steps")

    return draw(paint, theme=theme, size=(7, 4))


def plot_examples(run: MeasuredRun, theme: str) -> bytes:
    """Clean images, perturbations and adversarial images of one run, with the true class and the predicted ones."""
    examples, count = run.examples, len(run.examples.labels)

    def paint(axes: Sequence[Axes]) -> None:
        for one in axes:
            one.set_xticks([])
            one.set_yticks([])
            one.grid(visible=False)
            one.spines[:].set_visible(True)
        for column in range(count):
            clean, adversarial = examples.images[column], examples.adversarial[column]
            change = adversarial - clean
            largest = change.abs().max().clamp_min(1e-12)
            rows = (clean, 0.5 + 0.5 * change / largest, adversarial)
            for row, picture in enumerate(rows):
                _picture(axes[row * count + column], picture)
            label = examples.labels[column]
            axes[column].set_title(f"class {label}", fontsize=10)
            _say(axes[column], label, examples.clean_predictions[column], theme)
            axes[count + column].set_xlabel(f"± {float(largest):.2g}", fontsize=10)
            _say(axes[2 * count + column], label, examples.adversarial_predictions[column], theme)
        for row, title in enumerate(("clean", "change", "adversarial")):
            axes[row * count].set_ylabel(title)

    return draw(paint, theme=theme, size=(1.25 * count + 0.4, 5), rows=3, columns=count)


def plot_time(runs: Sequence[MeasuredRun], theme: str) -> bytes:
    """Where a training step's time goes, of the runs that were profiled: a bar a run."""
    profiled = [run for run in runs if run.profile]

    def paint(axes: Sequence[Axes]) -> None:
        left = [0.0] * len(profiled)
        names = [run.name for run in profiled]
        for place, part in enumerate(PARTS):
            values = [run.profile["milliseconds"].get(part, 0.0) for run in profiled]
            paper = THEMES[theme]["paper"]
            axes[0].barh(names, values, left=left, label=part, color=color(theme, place), edgecolor=paper, height=0.6)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes[0].set_xlabel("ms a training step")
        axes[0].invert_yaxis()
        axes[0].grid(visible=False, axis="y")
        axes[0].figure.legend(loc="outside lower center", ncols=4)

    return draw(paint, theme=theme, size=(8, 1.9 + 0.5 * len(profiled)))


def _sweep(axes: Axes, runs: Sequence[MeasuredRun], kind: str, theme: str) -> None:
    for place, run in enumerate(runs):
        rows, samples = run.sweeps[kind], run.sweeps["samples"]
        at = [row["at"] for row in rows]
        shares = [100 * row["right"] / samples for row in rows]
        bounds = [wilson(row["right"], samples) for row in rows]
        axes.plot(at, shares, color=color(theme, place), marker=marker(place), label=run.name)
        low, high = ([100 * bound[side] for bound in bounds] for side in (0, 1))
        axes.fill_between(at, low, high, color=color(theme, place), alpha=0.2, linewidth=0)
    percent_axis(axes, "robust accuracy, %")
    if len(runs) > 1:
        axes.legend()


def _picture(axes: Axes, picture: Tensor) -> None:
    picture = picture.clamp(0, 1)
    if len(picture) == 1:
        axes.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(picture[:3].permute(1, 2, 0).numpy(), interpolation="nearest")


def _say(axes: Axes, label: int, prediction: tuple[int, float], theme: str) -> None:
    predicted, probability = prediction
    mark, colors = ("✓", RIGHT) if predicted == label else ("✗", WRONG)
    axes.set_xlabel(f"{mark} {predicted}, {100 * probability:.0f} %", color=colors[theme], fontsize=10)
