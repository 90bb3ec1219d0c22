"""The inner maximisation."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require, require_pixels


@dataclass(frozen=True)
class AttackConfig:
    """The inner maximisation during training."""

    norm: Literal["linf", "l2"] = "linf"
    """Norm of the perturbation ball."""
    eps: float = 8 / 255
    """Radius of the ball in [0, 1] pixel units (l2: the norm over the whole image)."""
    step_size: float = 2 / 255
    """Length of one step, in the same units as eps."""
    steps: int = 10
    """Attack iterations a training step, 1 or more."""
    start: Literal["auto", "gaussian", "uniform", "none"] = "auto"
    """First iterate: gaussian (x + 0.001 · N(0, 1)), uniform (in the ball), none (x itself), auto (the objective's)."""
    start_eps: float | None = None
    """uniform: radius of the ball that the start is drawn from, in the units of eps (N-FGSM: 2 eps); null: eps."""
    project: bool = True
    """Keep the iterates in the ball around the image; false (N-FGSM): in [0, 1] alone."""
    warmup_epochs: float = 0.0
    """Epochs, 0 or more, over which eps, start_eps and step_size rise linearly from 0 to their values."""
    mode: Literal["eval", "train"] = "eval"
    """How the attacked model is: eval; train (TRADES as Gowal and Wang train it): the model itself, whose BatchNorm
    normalises by the batch and keeps its running statistics as they are."""
    loss: Literal["auto", "kl", "ce", "mixed"] = "auto"
    """What the attack maximises: kl (to the target's output), ce (to the labels), mixed (both, as ACT was released),
    auto (the objective's own)."""
    smooth_labels: bool = False
    """The attack's cross-entropy takes objective.label_smoothing too; false: it keeps the labels."""
    view: bool = True
    """In eval mode: attack a frozen, faster copy of the model (as the settings around this one say), not the model."""
    fold_batchnorm: bool = True
    """With view: take BatchNorm into the layer before it, as eval mode allows."""
    cuda_graph: bool = True
    """On a GPU, with view: record the attack's loop once as a CUDA graph and replay it."""

    def __post_init__(self) -> None:
        require(self.eps >= 0, "attack.eps", self.eps, "0 or more, in [0, 1] pixel units, such as 8/255")
        require(self.step_size > 0, "attack.step_size", self.step_size, "above 0, in [0, 1] pixel units, such as 2/255")
        require(self.steps >= 1, "attack.steps", self.steps, "1 or more")
        require(self.warmup_epochs >= 0, "attack.warmup_epochs", self.warmup_epochs, "0 or more")
        require_pixels("attack.eps", self.eps, self.norm)
        if self.start_eps is not None:
            require(self.start_eps >= 0, "attack.start_eps", self.start_eps, "0 or more, such as 16/255, or null")
            require_pixels("attack.start_eps", self.start_eps, self.norm)
        require_pixels("attack.step_size", self.step_size, self.norm)
