"""A page about one run or several: ``python -m act_engine.report RUN [RUN …]``."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from act_engine.config.command_line import own_arguments, read_options, user_errors


@dataclass(frozen=True)
class Arguments:
    """Write report.html about one run or several: accuracies, robustness, pictures, curves, time, environment.

    The page needs nothing but itself; its plots are also written as PNGs, in the folder report. What is measured for
    it is kept in each run's folder.
    """

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    """The runs' folders."""
    output: str | None = None
    """Folder for report.html; null: the run's own, or runs/report for several."""
    samples: int = 500
    """Test images, spread evenly, on which robust accuracy is measured against eps and steps, 8 or more."""
    checkpoint: str = "best"
    """Which weights of every run: best (those that it exported), last, or step-N; measured by act_engine.evaluate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        return _page(read_options(Arguments, sys.argv[1:] if argv is None else argv, "python -m act_engine.report"))


def _page(options: dict[str, Any]) -> int:
    given = own_arguments(Arguments, options)
    folders = [Path(run) for run in given.runs]
    if not folders:
        raise ValueError("RUN: the folder of a training run is missing, such as runs/digits")
    samples = given.samples
    if samples < 8:
        raise ValueError(f"--samples: got {samples}; allowed: 8 or more")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ValueError(f"--nproc-per-node: got {processes}; a report is made in 1 process")
    # After the arguments: a typo need not wait for torch.
    from act_engine.parallel import connect
    from act_engine.reporting.measure import measure_run
    from act_engine.reporting.page import write_report
    from act_engine.reporting.plotting import import_matplotlib
    from act_engine.runs.environment import pick_device
    from act_engine.runs.folder import check_output, read_config

    import_matplotlib()
    for folder in folders:
        read_config(folder)
    output = Path(given.output or (folders[0] if len(folders) == 1 else "runs/report"))
    check_output("--output", output, ("report.html",))
    world = connect(pick_device(given.device))
    checkpoint, shown = given.checkpoint, given.progress
    runs = [measure_run(folder, world, samples, checkpoint=checkpoint, progress=shown) for folder in folders]
    print(write_report(runs, output))
    world.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
