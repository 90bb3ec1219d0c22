"""Turn results into tables and plots: ``python benchmarks/report.py [--docs]``.

Of every device each (op, size) comes from the newest run that measured it: all its contenders were measured together.
``--docs`` writes them into docs/performance.md, and a short one into README.md, between their begin and end comments;
without it they are printed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LARGE = ("4096x1000", "32x3x224x224")
"""Sizes of the kernels' rows in the short table."""
KERNEL_COLUMNS = ("eager", "compile", "liger", "triton", "native")

PEERS = ("peers step", "peers evaluation")
TITLES = {"plain": "plain loop", "plain_autocast": "plain loop, autocast + channels_last"}
"""What contenders of the peers' table are called that are no library."""

Table = dict[tuple[str, str], dict[str, dict]]


def newest_results(folder: Path) -> Table:
    """Rows of a folder by (op, size), then by contender; a row also has its run's command, date and versions."""
    table: Table = {}
    for path in sorted(folder.glob("*.json")):
        table |= run_table(json.loads(path.read_text("utf-8")))
    return dict(sorted(table.items()))


def run_table(run: dict) -> Table:
    """The same of one run."""
    about = {key: run[key] for key in ("device", "torch", "time", "command")}
    measured: Table = {}
    for row in run["rows"]:
        measured.setdefault((row["op"], row["size"]), {})[row["contender"]] = {**about, **row}
    return measured


def kernel_table(results: Table) -> str:
    """Medians with p20 to p80, the best kernel's speed-up, its bandwidth, and that in percent of a copy's."""
    table = {key: rows for key, rows in results.items() if "native" in rows or "triton" in rows}
    if not table:
        return ""
    columns = [c for c in KERNEL_COLUMNS if any(c in rows for rows in table.values())]
    lines = [
        _about(table) + "Median (20th to 80th percentile) in ms; the last four columns are the fastest kernel's.",
        "",
        "| op | size | " + " | ".join(columns) + " | × eager | × compile | GB/s | % of copy |",
        "| --- | --- |" + " --- |" * (len(columns) + 4),
    ]
    for (op, size), rows in table.items():
        best = min((rows[c] for c in ("native", "triton") if c in rows), key=lambda row: row["median_us"])
        cells = [_time(rows.get(c), 1e3) for c in columns]
        cells += [_ratio(rows.get(c), best) for c in ("eager", "compile")]
        cells += [f"{best['gigabytes_per_second']:.3g}", f"{best['percent_of_copy']:.0f}"]
        lines.append(f"| {op} | {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def step_table(results: Table) -> str:
    """The training steps: seconds, images a second, how much slower than the engine, and peak memory."""
    table = {key: rows for key, rows in results.items() if key[0] == "training_step"}
    parts = []
    for (_, size), rows in table.items():
        engine = rows["engine"]
        parts += [
            _about({("", ""): rows}) + f"**{size}**, attack efficiency {engine['attack_efficiency']:.2f}.",
            "",
            "| training step | s, median (20th to 80th percentile) | images/s | engine's speed-up | peak memory, MB |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, row in rows.items():
            memory = f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "–"
            figures = f"{row['images_per_second']:.1f} | {row['engine_speed_up']:.2f} | {memory}"
            parts.append(f"| {name} | {_time(row, 1e6)} | {figures} |")
    return "\n".join(parts)


def peers_table(results: Table) -> str:
    """What each library costs beside the engine, a part for each step and evaluation; who is not in it and why."""
    parts = []
    for (op, size), rows in results.items():
        if op not in PEERS:
            continue
        timed, missing = _timed(rows), {name: row["why_not"] for name, row in rows.items() if "why_not" in row}
        about = _about({("", ""): timed})
        checked = "other verdicts" if op == "peers evaluation" else "difference / allowed"
        parts += [
            f"**{op.split()[1]}: {size}**, load average {next(iter(timed.values()))['load']:.1f} at the start. {about}",
            "",
            f"| contender | × the engine's CPU time | × its time | images/s | peak memory, MB | {checked} |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, row in sorted(timed.items(), key=lambda item: item[1]["engine_speed_up_cpu"]):
            ratios = f"{row['engine_speed_up_cpu']:.2f} | {row['engine_speed_up']:.2f}"
            figures = f"{row['images_per_second']:.3g} | {row['peak_bytes'] / 1e6:.0f}"
            check = row.get("other_verdicts")
            check = f"{row['difference']:.2f} / {row['bound']:.2f}" if check is None else f"{check}"
            parts.append(f"| {_named(name, row)} | {ratios} | {figures} | {check} |")
        parts += ["", "Not in it: " + "; ".join(f"{name} ({reason})" for name, reason in missing.items()) + ".", ""]
    return "\n".join(parts).strip()


def peers_short_table(results: Table) -> str:
    """The CPU time of every library as a multiple of the engine's, a row for each step and evaluation."""
    table = {key: _timed(rows) for key, rows in results.items() if key[0] in PEERS}
    if not table:
        return ""
    names = sorted({name for rows in table.values() for name in rows} - {"engine"}, key=lambda n: ("plain" not in n, n))
    lines = [
        _about(table, command=False) + "CPU time as a multiple of the engine's.",
        "",
        "| | " + " | ".join(TITLES.get(name, name) for name in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for (op, size), rows in table.items():
        cells = [f"{rows[name]['engine_speed_up_cpu']:.1f}" if name in rows else "–" for name in names]
        lines.append(f"| {op.split()[1]}: {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def peers_plot(results: Table, path: Path) -> None:
    """Bars: the CPU time of every library as a multiple of the engine's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = {key: _timed(rows) for key, rows in results.items() if key[0] in PEERS}
    figure, panels = pyplot.subplots(1, len(table), figsize=(2.6 * len(table), 3), layout="constrained", squeeze=False)
    for axes, ((op, size), rows) in zip(panels[0], table.items(), strict=True):
        ratios = sorted((row["engine_speed_up_cpu"], TITLES.get(name, name)) for name, row in rows.items())
        colours = ["tab:orange" if name == "engine" else "tab:blue" for _, name in ratios]
        axes.barh([name for _, name in ratios], [ratio for ratio, _ in ratios], color=colours)
        axes.invert_yaxis()
        axes.axvline(1, color="black", linewidth=0.8)
        axes.tick_params(labelsize=7)
        axes.set_title(f"{op.split()[1]}\n{size}", fontsize=7)
    figure.supxlabel("CPU time, times the engine's", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _timed(rows: dict[str, dict]) -> dict[str, dict]:
    return {name: row for name, row in rows.items() if "median_us" in row}


def _named(name: str, row: dict) -> str:
    return f"{TITLES.get(name, name)}{'' if name in ('engine', *TITLES) else ' ' + row['version']}"


def view_table(results: Table) -> str:
    """What a copy of the model for attacks, and an evaluation through it, cost beyond the passes that they make."""
    parts = []
    for (op, size), rows in results.items():
        if op not in ("attack_view", "evaluation"):
            continue
        parts += [
            _about({("", ""): rows}) + f"{size}.",
            "",
            f"| {op.replace('_', ' ')} | ms, median (20th to 80th percentile) | times the bare one |",
            "| --- | --- | --- |",
        ]
        parts += [f"| {name} | {_time(row, 1e3)} | {row['times_the_copy']:.2f} |" for name, row in rows.items()]
        parts.append("")
    return "\n".join(parts).strip()


def loading_table(results: Table) -> str:
    """The data loaders: images a second, and how many times torchvision's."""
    parts = []
    for (op, size), rows in results.items():
        if op != "data_loading":
            continue
        parts += [
            _about({("", ""): rows}) + f"{size}.",
            "",
            "| loader | s an epoch, median (20th to 80th percentile) | images/s | × torchvision |",
            "| --- | --- | --- | --- |",
        ]
        for name, row in rows.items():
            speed = f"{row['images_per_second']:.0f} | {row['times_torchvision']:.2f}"
            parts.append(f"| {name} | {_time(row, 1e6)} | {speed} |")
    return "\n".join(parts)


def plot(results: Table, path: Path) -> None:
    """Bars: how many times faster than eager each kernel is, for each op and size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = {key: rows for key, rows in results.items() if "eager" in rows}
    columns = [c for c in KERNEL_COLUMNS if c != "eager" and any(c in rows for rows in table.values())]
    height = 0.8 / max(len(columns), 1)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.45 * len(table)), layout="constrained")
    for offset, contender in enumerate(columns):
        values = [
            rows["eager"]["median_us"] / rows[contender]["median_us"] if contender in rows else 0
            for rows in table.values()
        ]
        axes.barh([i + offset * height for i in range(len(table))], values, height, label=contender)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(table))], [f"{op} {size}" for op, size in table])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times faster than eager PyTorch")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def documents() -> dict[Path, dict[str, str]]:
    """The generated parts of each document, by name; the README has the peers' short table if it has its comments."""
    readme = ROOT / "README.md"
    short = {"speed": speed_table(), "peers": _each_device(peers_short_table)}
    has = readme.read_text("utf-8")
    return {
        ROOT / "docs" / "performance.md": whole_tables(),
        readme: {name: table for name, table in short.items() if f"<!-- begin {name} -->" in has},
    }


def speed_table() -> str:
    """The training step's and the large kernels' speed-ups, a row for each device and measurement."""
    lines = ["| what | on | × plain PyTorch | × its best form |", "| --- | --- | --- | --- |"]
    for folder in sorted(folder for folder in RESULTS.iterdir() if folder.is_dir()):
        for (op, size), rows in newest_results(folder).items():
            ratios = _speed_ups(op, size, rows)
            if ratios is not None:
                device = next(iter(rows.values()))["device"]
                lines.append(f"| {op.replace('_', ' ')}, {size} | {device} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
    note = "The best form: of the step autocast and channels_last, of a kernel `torch.compile`. Medians."
    return "\n".join([*lines, "", note])


def _speed_ups(op: str, size: str, rows: dict[str, dict]) -> tuple[float, float] | None:
    """Of the training step, or of a kernel at a large size, over plain PyTorch and over its best form."""
    if op == "training_step":
        return tuple(rows[f"baseline {kind}"]["engine_speed_up"] for kind in ("float32", "autocast + channels_last"))
    if size not in LARGE or not {"native", "eager", "compile"} <= rows.keys():
        return None
    fastest = min(rows[kind]["median_us"] for kind in ("native", "triton") if kind in rows)
    return rows["eager"]["median_us"] / fastest, rows["compile"]["median_us"] / fastest


def whole_tables() -> dict[str, str]:
    """Every measurement, by kind."""
    parts = {
        "kernels": kernel_table,
        "step": step_table,
        "loading": loading_table,
        "peers-short": peers_short_table,
        "peers": peers_table,
        "views": view_table,
    }
    return {name: _each_device(part) for name, part in parts.items()}


def _each_device(part: Callable[[Table], str]) -> str:
    devices = (newest_results(folder) for folder in sorted(RESULTS.iterdir()) if folder.is_dir())
    return "\n\n".join(filter(None, map(part, devices)))


def run_summary(run: dict) -> str:
    """The tables of one run, as the documents show them."""
    results = run_table(run)
    parts = (kernel_table, step_table, view_table, loading_table, peers_table)
    return "\n\n".join(filter(None, (part(results) for part in parts)))


def fill(text: str, tables: dict[str, str]) -> str:
    """`text` with each table between its comments."""
    for name, table in tables.items():
        before, rest = text.split(f"<!-- begin {name} -->\n", 1)
        _, after = rest.split(f"<!-- end {name} -->", 1)
        text = f"{before}<!-- begin {name} -->\n{table}\n<!-- end {name} -->{after}"
    return text


def _about(table: Table, command: bool = True) -> str:
    row = next(row for rows in table.values() for row in rows.values())
    by = f", `{row['command']}`" if command else ""
    return f"{row['device']}, torch {row['torch']}, {row['time'][:10]}{by}. "


def _time(row: dict | None, microseconds: float) -> str:
    if row is None:
        return "–"
    median, low, high = (row[key] / microseconds for key in ("median_us", "p20_us", "p80_us"))
    return f"{median:.3g} ({low:.3g}–{high:.3g})"


def _ratio(row: dict | None, best: dict) -> str:
    return "–" if row is None else f"{row['median_us'] / best['median_us']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/performance.md and README.md")
    arguments = parser.parse_args()
    for folder in filter(Path.is_dir, RESULTS.iterdir()):
        results = newest_results(folder)
        if kernel_table(results):
            plot(results, folder / "kernels.png")
        if peers_table(results):
            peers_plot(results, folder / "peers.png")
    for document, tables in documents().items():
        if arguments.docs:
            document.write_text(fill(document.read_text("utf-8"), tables), "utf-8")
        else:
            sys.stdout.write("\n\n".join(tables.values()) + "\n")


if __name__ == "__main__":
    main()
