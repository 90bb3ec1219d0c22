"""The report as one HTML page that needs nothing but itself: no script, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from act_engine.config import to_mapping
from act_engine.progress import duration
from act_engine.reporting import plots, words
from act_engine.reporting.html import Html, details, element, joined, paragraph, table
from act_engine.reporting.measure import EPS_STEPS, MeasuredRun
from act_engine.reporting.plotting import THEMES
from act_engine.runs.folder import write_bytes, write_text
from act_engine.runs.methods import method_label


class Page:
    """Collects a page's parts, and writes the plots among them as PNGs (those of the light page) into a folder."""

    def __init__(self, pictures: Path) -> None:
        self.pictures = pictures
        self.parts: list[Html] = []
        pictures.mkdir(parents=True, exist_ok=True)

    def add(self, *parts: Html) -> None:
        """Put parts at the end."""
        self.parts += parts

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.add(element("h2", text))

    def plots(self, *figures: Html) -> None:
        """Figures beside each other, as far as there is room."""
        self.add(element("div", *figures, class_="plots"))

    def figure(self, name: str, make: Callable[[str], bytes], caption: str = "", alt: str | None = None) -> Html:
        """A plot that `make` draws for a theme; `alt` stands for it where it cannot be seen, in its caption's place."""
        light, dark = make("light"), make("dark")
        write_bytes(self.pictures / f"{name}.png", light)
        other = element("source", media="screen and (prefers-color-scheme: dark)", srcset=_uri(dark))
        image = element("img", src=_uri(light), alt=alt or caption, width=_width(light))
        below = [element("figcaption", caption)] * bool(caption)
        return element("figure", element("picture", other, image), *below)


def write_report(runs: Sequence[MeasuredRun], folder: Path) -> Path:
    """Write ``report.html`` into `folder`, and its plots as PNGs (those of the light page) beside it in ``report/``."""
    page = Page(folder / "report")
    names = ", ".join(run.name for run in runs)
    methods = ", ".join(dict.fromkeys(method_label(run.config) for run in runs))
    data = ", ".join(dict.fromkeys(run.config.data.name for run in runs))
    page.add(element("h1", names), paragraph(f"{methods} on {data}, made with act_engine.", "note"))
    page.add(paragraph(" ".join(words.verdict(runs)), "verdict"))
    page.heading("What was measured")
    page.add(
        _measures(runs),
        paragraph("In brackets, and as the thin line: 95 % intervals, of the choice of images.", "note"),
    )
    _curves(page, runs)
    for number, run in enumerate(runs):
        if len(runs) > 1:
            page.heading(run.name)
        _classes(page, run, "" if len(runs) == 1 else f"-{number}")
        _checks(page, run)
        _examples(page, run)
    page.heading("Training")
    panels = plots.training_curves(runs)
    curves = (page.figure(p.name, lambda theme, p=p: plots.plot_training(p, runs, theme), alt=p.title) for p in panels)
    page.plots(*curves)
    if panels[0].name != "accuracy":
        page.add(paragraph("For robust accuracy during training: --checkpoint.best_every_epochs 5.", "note"))
    page.heading("What it took")
    page.add(_facts(runs))
    if any(run.profile for run in runs):
        page.plots(
            page.figure("time", lambda theme: plots.plot_time(runs, theme), "Parts of a profiled training step.")
        )
    page.add(_time(runs))
    page.heading("Environment")
    page.add(*_environment(runs))
    page.heading("Settings")
    page.add(*(details(run.name, yaml.safe_dump(to_mapping(run.config), sort_keys=False)) for run in runs))
    write_text(folder / "report.html", _document(names, page.parts))
    return folder / "report.html"


def _document(title: str, parts: Sequence[Html]) -> str:
    style = files("act_engine.reporting").joinpath("style.css").read_text("utf-8")
    for theme, colors in THEMES.items():
        for name, color in colors.items():
            style = style.replace(f"{theme}_{name}".upper(), color)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(style)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', joined(parts, chr(10))), lang='en')}\n"


def _measures(runs: Sequence[MeasuredRun]) -> Html:
    """Every accuracy, under the attack and the images that it was measured with."""
    bodies = []
    for heading, rows in words.measurements(runs).items():
        lines = [element("tr", element("th", heading, colspan=3, scope="rowgroup"))]
        for run, name, share in rows:
            label = words.model_name(name) if len(runs) == 1 else f"{run.name}, {words.model_name(name)}"
            lines.append(element("tr", element("td", label), element("td", str(share)), element("td", _bar(share))))
        bodies.append(element("tbody", *lines))
    head = element("thead", element("tr", *(element("th", name) for name in ("", "accuracy, %", ""))))
    return element("div", element("table", head, *bodies, class_="measures"), class_="wide")


def _bar(share: words.Share) -> Html:
    """A bar from 0 to 100 %, with the interval as a line at its end."""
    low, width = 100 * share.low, max(100 * (share.high - share.low), 0.5)
    return element(
        "svg",
        element("rect", class_="ground", x=0, y=3, width=100, height=10),
        element("rect", class_="bar", x=0, y=3, width=f"{100 * share.value:.2f}", height=10),
        element("rect", class_="interval", x=f"{low:.2f}", y=7, width=f"{width:.2f}", height=2),
        viewBox="0 0 100 16",
        preserveAspectRatio="none",
        role="img",
        aria_label=share.percent,
    )


def _curves(page: Page, runs: Sequence[MeasuredRun]) -> None:
    """A pair of plots for each attack that the runs were measured with: other attacks do not share one."""
    groups: dict[Any, list[MeasuredRun]] = {}
    for run in runs:
        if run.attack is not None:
            groups.setdefault(run.attack, []).append(run)
    if not groups:
        return
    page.heading("Robust accuracy against the attack’s strength")
    for number, (attack, group) in enumerate(groups.items()):
        end = "" if len(groups) == 1 else f"-{number}"
        loss = {"ce": "cross-entropy"}.get(attack.loss, attack.loss)
        samples = next(iter(group[0].sweeps.values()))["samples"]
        if len(groups) > 1:
            page.add(element("h3", ", ".join(run.name for run in group)))
        page.plots(
            page.figure(
                f"robust-against-eps{end}",
                lambda theme, group=group: plots.plot_sweep(group, "eps", theme),
                f"PGD-{EPS_STEPS} ({loss}), one random start, on {samples} test images. A curve that does not come "
                "down to 0 on the right points at an attack that fails.",
            ),
            page.figure(
                f"robust-against-steps{end}",
                lambda theme, group=group: plots.plot_sweep(group, "steps", theme),
                "The same attack with more and more steps of 2.5 · eps / steps. A curve that still falls on the right "
                "says that more steps are needed.",
            ),
        )


def _classes(page: Page, run: MeasuredRun, end: str) -> None:
    classes = run.num_classes
    few = "" if classes <= plots.MOST_CLASSES else f" The {plots.MOST_CLASSES} worst of {classes}."
    figures = []
    if run.evaluation["models"][run.model].get("per_class"):
        attack = run.evaluation["attack"]
        under = "" if attack is None else f" Under attack: {words.short_attack(attack)}."
        caption = f"Class by class, the least robust first.{under}{few}"
        figures.append(page.figure(f"classes{end}", lambda theme: plots.plot_classes(run, theme), caption))
    if run.examples is not None:
        often = _often(run)
        caption = f"After the last step of PGD-{EPS_STEPS}, on {len(run.examples.labels)} test images. {often}"
        if classes <= plots.MOST_CLASSES:
            figures.append(page.figure(f"confusion{end}", lambda theme: plots.plot_confusion(run, theme), caption))
        else:
            figures.append(paragraph(f"Under attack: {caption}"))
    if figures:
        page.add(element("h3", "By class"))
        page.plots(*figures)


def _often(run: MeasuredRun) -> str:
    """The commonest confusions in words."""
    counts = plots.confusion(run)
    totals = counts.sum(1).tolist()
    wrong = counts.clone().fill_diagonal_(0)
    top = wrong.flatten().topk(min(3, wrong.numel())).indices.tolist()
    pairs = [divmod(place, run.num_classes) for place in top]
    texts = [
        f"{run.class_name(true)} for {run.class_name(taken)} ({int(wrong[true, taken])} of {totals[true]})"
        for true, taken in pairs
        if wrong[true, taken]
    ]
    return f"Most often it takes {', '.join(texts)}." if texts else "It takes none for another class."


def _checks(page: Page, run: MeasuredRun) -> None:
    """Whether the attack did its work, for each model that was measured."""
    page.add(element("h3", "Can the robust figure be trusted?"))
    evaluation = run.evaluation
    if evaluation["attack"] is None:
        page.add(paragraph("No attack was run.", "note"))
        return
    for name in evaluation["models"]:
        found = words.checks(evaluation, name)
        mark = {True: ("✓", "good"), False: ("!", "bad")}
        rows = [
            [joined([element("span", mark[c.passed][0], class_=mark[c.passed][1]), f" {c.name}"]), c.text]
            for c in found
        ]
        if name != run.model and all(check.passed for check in found):
            text = f"The {words.model_name(name)} model passes the same {len(found)} checks."
            page.add(paragraph(text, "note"))
        else:
            page.add(paragraph(f"The {words.model_name(name)} model:"), table((), rows, kind="text"))
    if not evaluation.get("settings", {}).get("check_masking", True):
        page.add(paragraph("The checks with growing balls were left out (check_masking).", "note"))


def _examples(page: Page, run: MeasuredRun) -> None:
    examples = run.examples
    if examples is None:
        page.add(paragraph("PGD has no l1 ball here: no curves and no examples.", "note"))
        return
    attack = run.attack
    page.add(
        element("h3", "Adversarial examples"),
        paragraph(
            f"{run.model.capitalize()} model, PGD-{attack.steps} ({attack.norm}, eps {attack.eps:.4g}): clean image, "
            "change (scaled up so that the largest is seen as black or white), adversarial image. First images that "
            "fool the model, then images that it withstands, each spread evenly over their kind.",
            "note",
        ),
        element("div", *(_example(run, place) for place in range(len(examples.shown))), class_="examples"),
    )


def _example(run: MeasuredRun, place: int) -> Html:
    examples, index = run.examples, int(run.examples.shown[place])
    clean, adversarial = examples.images[place], examples.adversarial[place]
    change = adversarial - clean
    largest = float(change.abs().max().clamp_min(1e-12))
    label = int(examples.labels[index])
    pictures = {"clean": clean, "change": 0.5 + 0.5 * change / largest, "adversarial": adversarial}
    images = [element("img", src=_uri(plots.picture(image)), alt=name) for name, image in pictures.items()]

    def says(kind: str, classes: Tensor, probabilities: Tensor) -> Html:
        found = int(classes[index])
        mark, style = ("✓", "good") if found == label else ("✗", "bad")
        text = f"{mark} {run.class_name(found)}, {100 * float(probabilities[index]):.0f} %"
        return element("div", f"{kind}: ", element("span", text, class_=style))

    return element(
        "div",
        element("div", *images, class_="row"),
        element("strong", f"class {run.class_name(label)}"),
        says("clean", examples.clean_class, examples.clean_probability),
        says("attacked", examples.adversarial_class, examples.adversarial_probability),
        element("div", f"change ± {largest:.2g}, shown × {0.5 / largest:.2g}"),
        class_="example",
    )


def _facts(runs: Sequence[MeasuredRun]) -> Html:
    rows = [
        ["method"],
        ["data"],
        ["models"],
        ["parameters"],
        ["training"],
        ["time of training"],
        ["images / s, median"],
    ]
    for run in runs:
        config, last = run.config, run.metrics[-1]
        counted = f"{run.train_images:,} training images" if run.train_images else "training images"
        parameters = ", ".join(f"{name} {count:,}" for name, count in run.parameters.items())
        seconds = [row["seconds"] for row in run.metrics if row.get("seconds") is not None]
        speeds = sorted(row["images_per_second"] for row in run.metrics)
        cells = [
            method_label(config),
            f"{config.data.name}, {counted}",
            ", ".join(dict.fromkeys(config.model.architecture(name)["name"] for name in run.parameters)),
            parameters,
            f"{last['step']:,} steps, {last['epoch'] + 1} epochs",
            duration(sum(seconds)) if len(seconds) == len(run.metrics) else "–",
            f"{speeds[len(speeds) // 2]:,.0f}",
        ]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return table(["", *(run.name for run in runs)] if len(runs) > 1 else (), rows, kind="text")


def _time(runs: Sequence[MeasuredRun]) -> Html:
    rows = [["waiting for data, %"], ["a step, ms"], *([f"{part}, ms"] for part in plots.PARTS)]
    for run in runs:
        waits = [row["data_wait_fraction"] for row in run.metrics]
        cells = [f"{100 * sum(waits) / len(waits):.1f}"]
        if run.profile:
            spent = run.profile["milliseconds"]
            cells.append(f"{spent['step']:.1f}")
            cells += [f"{spent[part]:.1f} ({100 * spent[part] / spent['step']:.0f} %)" for part in plots.PARTS]
        for place, row in enumerate(rows):
            row.append(cells[place] if place < len(cells) else "–")
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else ()
    if any(run.profile for run in runs):
        return table(head, rows)
    note = paragraph("No step was profiled: train with --profile true to see its parts here.", "note")
    return joined([table(head, rows[:1]), note])


def _environment(runs: Sequence[MeasuredRun]) -> list[Html]:
    distinct: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for run in runs:
        key = repr({k: v for k, v in run.environment.items() if k != "command"})
        distinct.setdefault(key, ([], run.environment))[0].append(run.name)
    parts = []
    for names, environment in distinct.values():
        if len(distinct) > 1:
            parts.append(element("h3", ", ".join(names)))
        rows = [[key, _text(value)] for key, value in environment.items() if not isinstance(value, dict)]
        rows += [["packages", ", ".join(f"{k} {v}" for k, v in environment["packages"].items())]]
        parts.append(table((), rows, kind="text"))
        kernels = yaml.safe_dump(environment["kernels"], sort_keys=False, width=100)
        parts.append(details("Kernels: what served each, and why", kernels))
    return parts


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _width(png: bytes) -> int:
    """CSS pixels at which a plot has its own size, 96 an inch: from the header's pixels, drawn at 144."""
    return int.from_bytes(png[16:20], "big") * 96 // 144
