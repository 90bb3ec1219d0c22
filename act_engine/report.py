"""Reports: a page to look at, and a comparison of methods.

``python -m act_engine.report RUN [RUN …]`` · ``python -m act_engine.report trade-off --recipe digits --seeds 5``
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from act_engine.cli import read_options, user_errors
from act_engine.config import from_mapping, read_recipe
from act_engine.reporting.trade_off import trade_off, trade_off_table
from act_engine.runfolder import write_json

PROG = "python -m act_engine.report"


@dataclass(frozen=True)
class Page:
    """Write report.html about one run or several: accuracies, robustness, pictures, curves, time, environment.

    The page needs nothing but itself; its plots are also written as PNGs, in the folder report. What is measured for
    it is kept in each run's folder. The word trade-off in the place of a run compares methods instead: see
    "trade-off --help".
    """

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    """The runs' folders."""
    output: str | None = None
    """Folder for report.html; null: the run's own, or runs/report for several."""
    samples: int = 500
    """Test images, spread evenly, on which robust accuracy is measured against eps and steps, 8 or more."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""


@dataclass(frozen=True)
class TradeOff:
    """Train every method with every seed (runs that are there already are kept), and print the table of accuracies."""

    recipe: str = "digits"
    """Recipe whose settings all methods share."""
    seeds: int = 5
    """Seeds 0, 1, … of every method, 1 or more."""
    output: str = "runs/trade-off"
    """Folder for the runs, one METHOD-SEED each."""
    json: str | None = None
    """File for the measured values; null: trade-off.json in the output folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        if words[:1] == ["trade-off"]:
            return _trade_off(read_options(TradeOff, words[1:], f"{PROG} trade-off"))
        return _page(read_options(Page, words, PROG))


def _page(options: dict[str, Any]) -> int:
    folders = [Path(run) for run in options.get("runs", ())]
    if not folders:
        raise ValueError("RUN: the folder of a training run is missing, such as runs/digits; or trade-off")
    samples = options.get("samples", Page.samples)
    if samples < 8:
        raise ValueError(f"--samples: got {samples}; allowed: 8 or more")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ValueError(f"--nproc-per-node: got {processes}; a report is made in 1 process")
    # After the arguments: a typo need not wait for torch.
    from act_engine.environment import pick_device
    from act_engine.parallel import connect
    from act_engine.reporting.measure import measure_run
    from act_engine.reporting.page import write_report

    world = connect(pick_device(options.get("device", "auto")))
    runs = [measure_run(folder, world, samples) for folder in folders]
    default = folders[0] if len(folders) == 1 else Path("runs/report")
    print(write_report(runs, Path(options.get("output") or default)))
    world.close()
    return 0


def _trade_off(options: dict[str, Any]) -> int:
    arguments = TradeOff(**options)
    if arguments.seeds < 1:
        raise ValueError(f"--seeds: got {arguments.seeds}; allowed: 1 or more")
    output = Path(arguments.output)
    result = trade_off(from_mapping(read_recipe(arguments.recipe)), range(arguments.seeds), output, arguments.recipe)
    write_json(Path(arguments.json) if arguments.json else output / "trade-off.json", result)
    print(trade_off_table(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
