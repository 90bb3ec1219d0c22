"""Training methods, one file each; every file reads like its formula."""

from act_engine.objectives.act import ACT
from act_engine.objectives.base import Objective
from act_engine.objectives.madry import Madry
from act_engine.objectives.natural import Natural
from act_engine.objectives.trades import Trades

__all__ = ["ACT", "Madry", "Natural", "Objective", "Trades", "build_objective"]


def build_objective(
    name: str, *, robust_alpha: float = 0.9, natural_alpha: float = 0.9, temperature: float = 4.0, beta: float = 6.0
) -> Objective:
    """The training method of that name, given the settings of its own among those here.

    Raises:
        ValueError: there is no such method.
    """
    builders = {
        "act": lambda: ACT(robust_alpha, natural_alpha, temperature),
        "natural": Natural,
        "madry": Madry,
        "trades": lambda: Trades(beta),
    }
    if name not in builders:
        raise ValueError(f"objective.name: got {name!r}; allowed: {', '.join(builders)}")
    return builders[name]()
