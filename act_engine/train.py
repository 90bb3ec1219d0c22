"""Train a robust model: ``torchrun -m act_engine.train --recipe digits --output runs/digits [--group.field value]``."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from act_engine.config import Config, to_mapping
from act_engine.config.command_line import (
    COMMON,
    chosen_config,
    chosen_values,
    ended_by_loss,
    own_arguments,
    read_options,
    user_errors,
)


@dataclass(frozen=True)
class Arguments(Config):
    """Train a robust and a natural model. Settings come from a recipe or a file, and any of them can be given here too.

    Wherever a number goes, so does a fraction such as 8/255. A run started again with the same output goes on where it
    stopped.
    """

    recipe: str | None = None
    """Name of a recipe inside the package; an unknown name lists them."""
    config: str | None = None
    """YAML file of settings, instead of a recipe."""
    output: str | None = None
    """Folder for everything the run writes; required."""
    profile: bool = False
    """Profile five steps: trace.json, profile.json and a table of the step's parts."""
    print_config: bool = False
    """Print the settings that the run would have, as YAML, and end."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        prog = "torchrun -m act_engine.train"
        options = read_options(Arguments, words, prog, common=COMMON, values=chosen_values, more_help=_objectives)
        config = chosen_config(options)
        given = own_arguments(Arguments, options)
        if given.print_config:
            if os.environ.get("RANK", "0") == "0":
                print(yaml.safe_dump(to_mapping(config), sort_keys=False), end="")
            return 0
        if given.output is None:
            raise ValueError("--output: a folder for the run is missing, such as --output runs/digits")
        # After the arguments: a typo need not wait for torch.
        from act_engine.evaluation import PremiseError
        from act_engine.training.trainer import NonFiniteLoss, NonFiniteWeights, Trainer

        trainer = Trainer(config, Path(given.output), profile=given.profile)
    try:
        with ended_by_loss():
            return trainer.run()
    except KeyboardInterrupt:  # before or after the steps, or the second one
        if trainer.world.is_main:
            print("stopped by SIGINT; run the same command again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    except (NonFiniteLoss, NonFiniteWeights, OSError) as error:
        if trainer.world.is_main:
            print(f"error: {error}", file=sys.stderr)
    except PremiseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1


def _objectives() -> str:
    from act_engine.objectives import describe_objectives  # after the arguments: a typo need not wait for torch

    return describe_objectives()


if __name__ == "__main__":
    raise SystemExit(main())
