"""Compare methods on equal terms: ``python -m act_engine.report trade-off --recipe digits --seeds 5``."""

import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from act_engine.cli import read_options, user_errors
from act_engine.config import Config, from_mapping, read_recipe
from act_engine.runfolder import EVALUATION, write_json

METHODS = {"natural": "natural training", "madry": "adversarial training", "trades": "TRADES", "act": "ACT"}


@dataclass(frozen=True)
class Arguments:
    """Train every method with every seed (runs that are there already are kept), and print the table of accuracies."""

    report: str | None = field(default=None, metadata={"positional": True})
    """Which report: trade-off."""
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
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "python -m act_engine.report")
        arguments = Arguments(**options)
        if arguments.report != "trade-off":
            raise ValueError(f"REPORT: got {arguments.report!r}; allowed: trade-off")
        if arguments.seeds < 1:
            raise ValueError(f"--seeds: got {arguments.seeds}; allowed: 1 or more")
        base = from_mapping(read_recipe(arguments.recipe))
    output = Path(arguments.output)
    result = trade_off(base, range(arguments.seeds), output, arguments.recipe)
    write_json(Path(arguments.json) if arguments.json else output / "trade-off.json", result)
    print(trade_off_table(result))
    return 0


def trade_off(base: Config, seeds: Sequence[int], output: Path, recipe: str) -> dict[str, Any]:
    """Accuracies in [0, 1] of every method and seed, trained where ``output/METHOD-SEED`` does not hold them yet."""
    from act_engine.trainer import Trainer  # not needed to print a table

    methods: dict[str, Any] = {}
    for method in METHODS:
        rows = []
        for seed in seeds:
            folder = output / f"{method}-{seed}"
            config = dataclasses.replace(
                base,
                objective=dataclasses.replace(base.objective, name=method),
                train=dataclasses.replace(base.train, seed=seed),
            )
            with user_errors():
                trainer = Trainer(config, folder)  # refuses a folder that holds a run with other settings
            if not (folder / EVALUATION).exists() and (code := trainer.run()):
                raise SystemExit(code)
            evaluation = json.loads((folder / EVALUATION).read_text("utf-8"))
            rows.append(evaluation["models"]["natural" if method == "natural" else "robust"])
        methods[method] = rows
    evaluation.pop("models"), evaluation.pop("seed")
    return {"recipe": recipe, "seeds": list(seeds), "methods": methods, **evaluation}


def trade_off_table(result: dict[str, Any]) -> str:
    """The Markdown table of a trade-off: mean ± sample standard deviation over the seeds, in percent."""
    lines = ["| method | clean % | robust % |", "| --- | --- | --- |"]
    for method, rows in result["methods"].items():
        cells = [_spread([100 * row[key] for row in rows]) for key in ("clean_accuracy", "robust_accuracy")]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    raise SystemExit(main())
