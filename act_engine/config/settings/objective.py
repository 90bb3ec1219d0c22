"""The training method."""

from dataclasses import dataclass, field
from typing import Any

from act_engine.errors import require


class Numbers(dict[str, float | None]):
    """The numbers of an objective that were given, by name; None is the objective's own value."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training method. Every other name of this group is a number of the objective's own, which its class knows."""

    name: str = "act"
    """Training method: act, natural, madry, trades, mart, lbgat, rslad, or the name of one that an installed package
    adds; each has numbers of its own, listed below."""
    numbers: Numbers = field(default_factory=Numbers, hash=False, metadata={"open": True})
    awp_gamma: float = 0.0
    """Adversarial weight perturbation: how far each layer's weights are moved against the loss, relative to their
    norm, before the gradient is taken there, such as 0.005; 0: not at all. It costs another pass of that model."""
    awp_start_epoch: int = 0
    """With awp_gamma: epochs to train without it first, 0 or more."""

    def __post_init__(self) -> None:
        require(self.awp_gamma >= 0, "objective.awp_gamma", self.awp_gamma, "0 or more, such as 0.005")
        require(self.awp_start_epoch >= 0, "objective.awp_start_epoch", self.awp_start_epoch, "0 or more")

    def method(self) -> dict[str, Any]:
        """The settings of `act_engine.objectives.build_objective`."""
        return {"name": self.name, **self.numbers}
