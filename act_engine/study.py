"""Compare methods fairly on one data set: ``python -m act_engine.study digits --jobs 2``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from act_engine.config.command_line import read_options, user_errors
from act_engine.errors import nearest
from act_engine.studies.protocol import METHODS, STUDIES


@dataclass(frozen=True)
class Arguments:
    """Search each method's trade-off parameter on held-out images, then measure every seed on the test images.

    Natural training, adversarial training, TRADES, MART, ACT, and ACT with AWP and averaged weights, under one recipe's
    settings: accuracy, PGD, AutoAttack, and the three analyses. Started again, it goes on where it stopped. Writes
    STUDY.json and STUDY.png into the results' folder, and prints the tables.
    """

    study: str | None = field(default=None, metadata={"positional": True})
    """digits, textures, cifar10 (a part of it, sized for a CPU) or cifar10_full (for a GPU)."""
    output: str | None = None
    """Folder for the runs; null: runs/study-STUDY."""
    results: str | None = None
    """Folder for STUDY.json and STUDY.png; null: the runs' folder."""
    path: str | None = None
    """Where the data lies; cifar10 needs it."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods: natural, madry, trades, mart, act, act_awp_ema."""
    seeds: int | None = None
    """Seeds 0, 1, … of every method, 1 or more; null: the study's."""
    epochs: int | None = None
    """Epochs of every training, 1 or more; null: the study's."""
    jobs: int = 1
    """Trainings and measurements side by side, 1 or more: as many as there are CPU cores; 1 on a GPU."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How far it is: a bar for a terminal, lines for a file, none; auto: as standard error is a terminal or none."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "python -m act_engine.study")
        arguments = Arguments(**options)
        _check(arguments)
        # After the arguments: a typo need not wait for torch.
        from act_engine.evaluation.autoattack import import_autoattack
        from act_engine.reporting.plotting import import_matplotlib
        from act_engine.runs.folder import check_output, write_bytes, write_json
        from act_engine.studies.run import run_study
        from act_engine.studies.show import accuracy_table, analysis_table, plot_study

        study = STUDIES[arguments.study]
        output = Path(arguments.output or f"runs/study-{arguments.study}")
        results = Path(arguments.results or output)
        check_output("--output", output)
        check_output("--results", results, (f"{arguments.study}.json", f"{arguments.study}.png"))
        import_matplotlib()
        import_autoattack()
        try:
            result = run_study(
                arguments.study,
                study,
                output,
                methods=arguments.methods,
                seeds=arguments.seeds or study.seeds,
                path=arguments.path,
                epochs=arguments.epochs,
                jobs=arguments.jobs,
                progress=arguments.progress,
            )
        except RuntimeError as error:  # of a training; what is finished is kept
            print(f"error: {error}", file=sys.stderr)
            return 1
        results.mkdir(parents=True, exist_ok=True)
        write_json(results / f"{arguments.study}.json", result)
        write_bytes(results / f"{arguments.study}.png", plot_study(result))
    print(accuracy_table(result), analysis_table(result), sep="\n\n")
    return 0


def _check(arguments: Arguments) -> None:
    name = arguments.study
    if name is None or name not in STUDIES:
        hint = "" if name is None else nearest(name, list(STUDIES))
        raise ValueError(f"STUDY: got {name!r}; allowed: {', '.join(STUDIES)}{hint}")
    if not arguments.methods:
        raise ValueError(f"--methods: got none; allowed: {', '.join(METHODS)}")
    for method in arguments.methods:
        if method not in METHODS:
            raise ValueError(
                f"--methods: got {method!r}; allowed: {', '.join(METHODS)}{nearest(method, list(METHODS))}"
            )
    for setting in ("seeds", "epochs", "jobs"):
        value = getattr(arguments, setting)
        if value is not None and value < 1:
            raise ValueError(f"--{setting}: got {value}; allowed: 1 or more")


if __name__ == "__main__":
    raise SystemExit(main())
