"""Methods on equal terms: every method with every seed under one recipe's settings, and the table of accuracies."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from act_engine.config import Config
from act_engine.methods import METHODS
from act_engine.runfolder import EVALUATION
from act_engine.statistics import mean_and_deviation

COMPARED = ("natural", "madry", "trades", "act")


def trade_off(base: Config, seeds: Sequence[int], output: Path, recipe: str) -> dict[str, Any]:
    """Accuracies in [0, 1] of every method and seed, trained where ``output/METHOD-SEED`` does not hold them yet.

    Raises:
        ValueError: such a folder holds a run with other settings.
    """
    from act_engine.trainer import Trainer  # not needed to print a table

    methods: dict[str, Any] = {}
    for method in COMPARED:
        rows = []
        for seed in seeds:
            folder = output / f"{method}-{seed}"
            config = dataclasses.replace(
                base,
                objective=dataclasses.replace(base.objective, name=method),
                train=dataclasses.replace(base.train, seed=seed),
            )
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
        columns = ("clean_accuracy", "robust_accuracy")
        cells = [mean_and_deviation([100 * row[column] for row in rows]) for column in columns]
        lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)
