"""Why does a method work: ``torchrun -m act_engine.analyze runs/act-0 runs/madry-0 [--analyses flatness …]``."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from act_engine.config import AnalysisConfig
from act_engine.config.command_line import own_arguments, read_options, user_errors


@dataclass(frozen=True)
class Arguments(AnalysisConfig):
    """Compare runs by the ACT paper's three analyses: model complexity, information compression, entropy and flatness.

    The paper's protocols are not public: these are our reading of its claims. Runs that differ in their seed alone are
    averaged. Writes analysis.json and analysis.png, and prints a table. What was measured is kept in each run's folder.
    """

    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    """The runs' folders."""
    output: str = "runs/analysis"
    """Folder for analysis.json and analysis.png."""
    checkpoint: str = "best"
    """Which weights of every run: best (those that it exported), last, or step-N."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "torchrun -m act_engine.analyze")
        given = own_arguments(Arguments, options)
        if not given.runs:
            raise ValueError("RUN: the folder of a training run is missing, such as runs/digits")
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise ValueError(f"--nproc-per-node: got {processes}; the analyses run in 1 process")
        names = [f.name for f in dataclasses.fields(AnalysisConfig)]
        settings = AnalysisConfig(**{name: options[name] for name in names if name in options})
        # After the arguments: a typo need not wait for torch.
        from act_engine.analysis import analyze_runs
        from act_engine.parallel import connect
        from act_engine.reporting.analysis import format_table, plot_analysis
        from act_engine.reporting.plotting import import_matplotlib
        from act_engine.runs.environment import pick_device
        from act_engine.runs.folder import check_output, write_bytes, write_json

        output = Path(given.output)
        check_output("--output", output, ("analysis.json", "analysis.png"))
        import_matplotlib()
        world = connect(pick_device(given.device))
        analysis = analyze_runs(
            [Path(run) for run in given.runs],
            settings,
            world,
            checkpoint=given.checkpoint,
            progress=given.progress,
        )
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "analysis.json", analysis)
        write_bytes(output / "analysis.png", plot_analysis(analysis))
    print(f"{format_table(analysis)}\n{output / 'analysis.json'}, {output / 'analysis.png'}")
    world.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
