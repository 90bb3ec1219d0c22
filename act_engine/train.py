"""Train a robust model: ``torchrun -m act_engine.train --recipe digits --output runs/digits [--group.field value]``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from act_engine.config import Config, from_mapping, read_recipe, read_yaml
from act_engine.config.command_line import nested, read_options, user_errors


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        words = sys.argv[1:] if argv is None else argv
        options = read_options(Arguments, words, "torchrun -m act_engine.train", more_help=_objectives)
        config = _config(options)
        if options.get("output") is None:
            raise ValueError("--output: a folder for the run is missing, such as --output runs/digits")
        # After the arguments: a typo need not wait for torch.
        from act_engine.evaluation import PremiseError
        from act_engine.parallel import ProcessLost
        from act_engine.training.trainer import NonFiniteLoss, NonFiniteWeights, Trainer

        trainer = Trainer(config, Path(options["output"]), profile=options.get("profile", False))
    try:
        return trainer.run()
    except (NonFiniteLoss, NonFiniteWeights, OSError) as error:
        if trainer.world.is_main:
            print(f"error: {error}", file=sys.stderr)
    except PremiseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ProcessLost as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _config(options: dict) -> Config:
    recipe, file = options.get("recipe"), options.get("config")
    if (recipe is None) == (file is None):
        raise ValueError("--recipe or --config: give exactly one of the two, such as --recipe digits")
    base = read_recipe(recipe) if recipe is not None else read_yaml(file)
    return from_mapping(nested(options), from_mapping(base))


def _objectives() -> str:
    from act_engine.objectives import describe_objectives  # after the arguments: a typo need not wait for torch

    return describe_objectives()


if __name__ == "__main__":
    raise SystemExit(main())
