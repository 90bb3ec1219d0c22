"""Training methods, one file each; every file reads like its formula."""

from act_engine.objectives.act import ACT
from act_engine.objectives.base import Objective
from act_engine.objectives.lbgat import LBGAT
from act_engine.objectives.madry import Madry
from act_engine.objectives.mart import Mart
from act_engine.objectives.natural import Natural
from act_engine.objectives.rslad import RSLAD
from act_engine.objectives.trades import Trades

__all__ = ["ACT", "LBGAT", "RSLAD", "Madry", "Mart", "Natural", "Objective", "Trades", "build_objective"]


def build_objective(
    name: str,
    *,
    robust_alpha: float = 0.9,
    natural_alpha: float = 0.9,
    temperature: float = 4.0,
    beta: float | None = None,
    label_smoothing: float = 0.0,
) -> Objective:
    """The training method of that name, given the settings of its own among those here.

    Args:
        beta: None: the method's own, 6 for TRADES and LBGAT, 5 for MART.
        label_smoothing: in [0, 1), of every cross-entropy in the losses, not of the attack's.

    Raises:
        ValueError: there is no such method, or it has no cross-entropy whose labels could be smoothed.
    """
    weight = {} if beta is None else {"beta": beta}
    smoothing = {"label_smoothing": label_smoothing}
    builders = {
        "act": lambda: ACT(robust_alpha, natural_alpha, temperature, **smoothing),
        "natural": lambda: Natural(**smoothing),
        "madry": lambda: Madry(**smoothing),
        "trades": lambda: Trades(**weight, **smoothing),
        "mart": lambda: Mart(**weight, **smoothing),
        "lbgat": lambda: LBGAT(**weight, **smoothing),
        "rslad": RSLAD,
    }
    if name not in builders:
        raise ValueError(f"objective.name: got {name!r}; allowed: {', '.join(builders)}")
    if name == "rslad" and label_smoothing:
        raise ValueError(
            f"objective.label_smoothing: got {label_smoothing}; allowed with objective rslad: 0 (it uses no labels)"
        )
    return builders[name]()
