"""What the trainer asks of a training method."""

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from torch import Tensor

from act_engine.attack import Attack

Models = Mapping[str, Callable[[Tensor], Tensor]]
"""By name: images [B, C, H, W] to float logits [B, classes]; the trained ones in train mode, the frozen ones in eval
mode and without a graph."""


class Objective(Protocol):
    """A training method: which models it trains, what its attack maximises, and the losses of one batch."""

    trains: ClassVar[tuple[str, ...]]
    """Names of the models it trains, out of ``"robust"`` and ``"natural"``."""
    frozen: ClassVar[tuple[str, ...]]
    """Names of the models that it needs trained already: none, or ``"teacher"``."""
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


def smoothing_term(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """What label smoothing s adds to the batch's mean cross-entropy: s · mean[z_y − mean over k of z_k], a scalar.

    Labels (1 − s) · onehot(y) + s / classes (Szegedy et al. 2016, arXiv 1512.00567) give CE + s · mean[log p_y − mean
    over k of log p_k], and the normaliser of the probabilities p cancels out of that difference.
    """
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return label_smoothing * (right - logits.mean(1)).mean()


def single_term_weights(loss: str, allowed: tuple[str, ...], method: str) -> tuple[float, float]:
    """The weights of a pure KL or a pure cross-entropy attack.

    Raises:
        ValueError: `loss` is not among those that the method's attack can maximise.
    """
    if loss not in allowed:
        raise ValueError(f"attack.loss: got {loss!r}; allowed with objective {method}: auto, {', '.join(allowed)}")
    return (1.0, 0.0) if loss == "kl" else (0.0, 1.0)
