"""The report as one HTML page that needs nothing but itself: no script, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from act_engine.config import to_mapping
from act_engine.evaluation import wilson
from act_engine.evaluation.table import columns_of, describe_attack
from act_engine.reporting import plots
from act_engine.reporting.measure import EPS_STEPS, MeasuredRun
from act_engine.reporting.plotting import THEMES
from act_engine.runs.folder import write_bytes, write_text
from act_engine.runs.methods import method_label

STYLE = """
:root { color-scheme: light dark; --ink: LIGHT_INK; --paper: LIGHT_PAPER; --line: LIGHT_GRID; --soft: #57606a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: DARK_INK; --paper: DARK_PAPER; --line: DARK_GRID; --soft: #9198a1; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
       font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; }
p.note, figcaption, summary, td.soft { color: var(--soft); }
p.warning { border-left: .25rem solid #d4a72c; padding-left: .75rem; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; min-width: 34rem; height: auto; }
figcaption { font-size: .9rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .75rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text { text-align: left; white-space: normal; }
td.text:first-child { white-space: nowrap; overflow-wrap: normal; vertical-align: top; }
pre { overflow-x: auto; font-size: .85rem; line-height: 1.4; }
"""


def write_report(runs: Sequence[MeasuredRun], folder: Path) -> Path:
    """Write ``report.html`` into `folder`, and its plots as PNGs (those of the light page) beside it in ``report/``."""
    pictures = folder / "report"
    pictures.mkdir(parents=True, exist_ok=True)

    def figure(name: str, make: Callable[[str], bytes], caption: str) -> str:
        light, dark = make("light"), make("dark")
        write_bytes(pictures / f"{name}.png", light)
        return (
            f'<figure><div class="wide"><picture><source media="(prefers-color-scheme: dark)" srcset="{_uri(dark)}">'
            f'<img src="{_uri(light)}" alt="{escape(caption)}" width="{_width(light)}"></picture></div>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    names = ", ".join(run.name for run in runs)
    methods = ", ".join(dict.fromkeys(method_label(run.config) for run in runs))
    data = ", ".join(dict.fromkeys(run.config.data.name for run in runs))
    parts = [
        f"<h1>{escape(names)}</h1><p class='note'>{escape(methods)} on {escape(data)}, made with act_engine.</p>",
        "<h2>Accuracy</h2>",
        _accuracy(runs),
        "<h2>Robust accuracy against the attack’s strength</h2>",
        figure(
            "robust-against-eps",
            lambda theme: plots.plot_against_eps(runs, theme),
            f"PGD-{EPS_STEPS}, cross-entropy, one random start, step 2.5 · eps / steps, on {_samples(runs)}; shaded: "
            "95 % intervals. A curve that does not come down to 0 on the right points at an attack that fails.",
        ),
        figure(
            "robust-against-steps",
            lambda theme: plots.plot_against_steps(runs, theme),
            "The same attack at the radius of the evaluation, for more and more steps. A curve that still falls on the "
            "right says that more steps are needed.",
        ),
        "<h2>Adversarial examples</h2>",
    ]
    for number, run in enumerate(runs):
        attack = run.examples.attack
        caption = (
            f"{run.name}: test images, evenly spread, under PGD-{attack.steps} ({attack.norm}, eps "
            f"{attack.eps:.4g}). Below each its prediction and that one’s probability; the change is scaled up to the "
            "largest one, which stands below it."
        )
        name = "examples" if len(runs) == 1 else f"examples-{number}"
        parts.append(figure(name, lambda theme, run=run: plots.plot_examples(run, theme), caption))
    parts += ["<h2>Training</h2>"]
    parts.append(figure("curves", lambda theme: plots.plot_curves(runs, theme), "What was logged during training."))
    parts.append("<h2>Where the time went</h2>")
    if any(run.profile for run in runs):
        parts.append(figure("time", lambda theme: plots.plot_time(runs, theme), "Parts of a training step, profiled."))
    parts += [_time(runs), "<h2>Environment</h2>", _environment(runs), "<h2>Settings</h2>", *map(_settings, runs)]
    style = STYLE
    for theme, colors in THEMES.items():
        for name, color in colors.items():
            style = style.replace(f"{theme}_{name}".upper(), color)
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(names)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )
    write_text(folder / "report.html", html + "\n".join(parts) + "\n</body>\n</html>\n")
    return folder / "report.html"


def _accuracy(runs: Sequence[MeasuredRun]) -> str:
    measured = [(run, evaluation) for run in runs for evaluation in run.evaluations]
    entries = [(run, e, name, model) for run, e in measured for name, model in e["models"].items()]
    columns = columns_of(model for *_, model in entries)
    head = ["run", "method", "model", *columns.values(), "images", "attack"]
    attacks = list(dict.fromkeys(describe_attack(e["attack"]) for _, e in measured if e["attack"]))
    rows, notes = [], []
    for run, evaluation, name, model in entries:
        samples, attack = evaluation["samples"], evaluation["attack"]
        cells = [_share(model, key, samples) for key in columns]
        which = "–" if attack is None else str(1 + attacks.index(describe_attack(attack)))
        rows.append([run.name, method_label(run.config), name, *cells, str(samples), which])
        notes += [_paragraph("warning", f"{run.name}, {name}: {w}") for w in model.get("warnings", [])]
    notes += [_paragraph("note", f"Attack {n}: {text}.") for n, text in enumerate(attacks, 1)]
    notes.append(_paragraph("note", "In brackets: 95 % intervals."))
    return _table(head, rows) + "\n".join(notes)


def _share(model: Mapping[str, Any], key: str, samples: int) -> str:
    value = model.get(key)
    if value is None:
        return "–"
    low, high = model.get("intervals", {}).get(key) or wilson(round(value * samples), samples)
    return f"{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _time(runs: Sequence[MeasuredRun]) -> str:
    rows = [["images / s, median"], ["waiting for data, %"], ["a step, ms"], *([f"{part}, ms"] for part in plots.PARTS)]
    for run in runs:
        speeds = sorted(row["images_per_second"] for row in run.metrics)
        waits = [row["data_wait_fraction"] for row in run.metrics]
        cells = [f"{speeds[len(speeds) // 2]:.0f}", f"{100 * sum(waits) / len(waits):.1f}"]
        if run.profile:
            spent = run.profile["milliseconds"]
            cells.append(f"{spent['step']:.1f}")
            cells += [f"{spent[part]:.1f} ({100 * spent[part] / spent['step']:.0f} %)" for part in plots.PARTS]
        for place, row in enumerate(rows):
            row.append(cells[place] if place < len(cells) else "–")
    if any(run.profile for run in runs):
        return _table(["", *(run.name for run in runs)], rows)
    note = _paragraph("note", "No step was profiled: train with --profile to see its parts here.")
    return _table(["", *(run.name for run in runs)], rows[:2]) + note


def _environment(runs: Sequence[MeasuredRun]) -> str:
    distinct: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for run in runs:
        key = repr({k: v for k, v in run.environment.items() if k != "command"})
        distinct.setdefault(key, ([], run.environment))[0].append(run.name)
    parts = []
    for names, environment in distinct.values():
        if len(distinct) > 1:
            parts.append(f"<h3>{escape(', '.join(names))}</h3>")
        rows = [[key, _text(value)] for key, value in environment.items() if not isinstance(value, dict)]
        rows += [["packages", ", ".join(f"{k} {v}" for k, v in environment["packages"].items())]]
        parts.append(_table(["", ""], rows, text=True))
        kernels = yaml.safe_dump(environment["kernels"], sort_keys=False, width=100)
        parts.append(
            f"<details><summary>Kernels: what served each, and why</summary><pre>{escape(kernels)}</pre></details>"
        )
    return "\n".join(parts)


def _settings(run: MeasuredRun) -> str:
    text = yaml.safe_dump(to_mapping(run.config), sort_keys=False)
    return f"<details><summary>{escape(run.name)}</summary><pre>{escape(text)}</pre></details>"


def _paragraph(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(text)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: bool = False) -> str:
    cell = '<td class="text">' if text else "<td>"
    top = "" if not any(head) else f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
    body = "".join(f"<tr>{''.join(f'{cell}{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{top}{body}</table></div>'


def _samples(runs: Sequence[MeasuredRun]) -> str:
    counts = " or ".join(str(count) for count in dict.fromkeys(run.sweeps["samples"] for run in runs))
    return f"{counts} test images"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _width(png: bytes) -> int:
    """CSS pixels at which a plot has its own size, 96 an inch: from the header's pixels, drawn at 144."""
    return int.from_bytes(png[16:20], "big") * 96 // 144
