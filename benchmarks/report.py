"""Turn the newest results of each device into the README's table and a plot: python benchmarks/report.py [RESULTS]."""

import argparse
import json
from pathlib import Path

_COLUMNS = ("eager", "compile", "liger", "triton", "native")


def newest_runs(results: Path) -> list[dict]:
    """The last run of each device's folder, by name (the time it was made)."""
    return [
        json.loads(max(folder.glob("*.json")).read_text())
        for folder in sorted(results.iterdir())
        if folder.is_dir() and any(folder.glob("*.json"))
    ]


def grouped(run: dict) -> dict[tuple[str, str], dict[str, dict]]:
    """Rows of a run by (op, size), then by contender."""
    table: dict[tuple[str, str], dict[str, dict]] = {}
    for row in run["rows"]:
        table.setdefault((row["op"], row["size"]), {})[row["contender"]] = row
    return dict(sorted(table.items()))


def markdown(run: dict) -> str:
    """Medians with p20 to p80, the best kernel's speed-up, its bandwidth, and that in percent of a copy's."""
    table = grouped(run)
    columns = [c for c in _COLUMNS if any(c in rows for rows in table.values())]
    lines = [
        f"**{run['device']}**, torch {run['torch']}, {run['time'][:10]}: `{run['command']}`. "
        "Median (20th to 80th percentile) in ms; the last three columns are the fastest kernel's.",
        "",
        "| op | size | " + " | ".join(columns) + " | × eager | × compile | GB/s | % of copy |",
        "| --- | --- |" + " --- |" * (len(columns) + 4),
    ]
    for (op, size), rows in table.items():
        kernels = [rows[c] for c in ("native", "triton") if c in rows]
        if not kernels:
            continue
        best = min(kernels, key=lambda row: row["median_us"])
        cells = [_time(rows.get(c)) for c in columns]
        cells += [_speedup(rows.get(c), best) for c in ("eager", "compile")]
        cells += [f"{best['gigabytes_per_second']:.3g}", f"{best['percent_of_copy']:.0f}"]
        lines.append(f"| {op} | {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(run: dict, path: Path) -> None:
    """Bars: how many times faster than eager each contender is, for each op and size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = {key: rows for key, rows in grouped(run).items() if "eager" in rows}
    columns = [c for c in _COLUMNS if c != "eager" and any(c in rows for rows in table.values())]
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
    axes.set_xlabel(f"times faster than eager PyTorch ({run['device']})")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _time(row: dict | None) -> str:
    if row is None:
        return "–"
    return f"{row['median_us'] / 1e3:.3g} ({row['p20_us'] / 1e3:.3g}–{row['p80_us'] / 1e3:.3g})"


def _speedup(row: dict | None, best: dict) -> str:
    return "–" if row is None else f"{row['median_us'] / best['median_us']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path(__file__).parent / "results")
    results = parser.parse_args().results
    for run in newest_runs(results):
        print(markdown(run), end="\n\n")
        picture = results / f"{run['device'].lower().replace(' ', '-').replace('_', '-')}.png"
        plot(run, picture)
        print(f"![speed-ups]({picture.name})", end="\n\n")


if __name__ == "__main__":
    main()
