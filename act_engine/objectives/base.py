"""What the trainer asks of a training method."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from torch import Tensor

from act_engine.attack import Attack

Models = Mapping[str, Callable[[Tensor], Tensor]]
"""By name, the models being trained: images [B, C, H, W] to float logits [B, classes], in train mode."""


class Objective(Protocol):
    """A training method: which models it trains, what its attack maximises, and the losses of one batch."""

    trains: ClassVar[tuple[str, ...]]
    """Names of the models it trains, out of ``"robust"`` and ``"natural"``."""
    attack_start: ClassVar[str]
    """The method's own start of the attack, used where ``attack.start`` is auto."""
    attack_loss: ClassVar[str]
    """The method's own attack loss, used where ``attack.loss`` is auto; ``"none"`` for a method without an attack."""

    def attack_weights(self, loss: str, batch_size: int) -> tuple[float, float]:
        """Weights (KL, cross-entropy) of the attack's loss, both batch sums; ValueError if it has no such loss."""
        ...

    def losses(self, models: Models, attack: Attack, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One scalar loss for each model it trains, by the model's name; computed before any optimizer steps."""
        ...


def single_term_weights(loss: str, allowed: tuple[str, ...], method: str) -> tuple[float, float]:
    """The weights of a pure KL or a pure cross-entropy attack.

    Raises:
        ValueError: `loss` is not among those that the method's attack can maximise.
    """
    if loss not in allowed:
        raise ValueError(f"attack.loss: got {loss!r}; allowed with objective {method}: auto, {', '.join(allowed)}")
    return (1.0, 0.0) if loss == "kl" else (0.0, 1.0)
