"""Optimizers and learning rates."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require


@dataclass(frozen=True)
class OptimConfig:
    """One optimizer a model, both with these settings."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd: with momentum and L2 weight decay; adamw: decoupled weight decay."""
    lr: float = 0.1
    """Learning rate at the start, above 0; with a warm-up or one cycle the highest."""
    momentum: float = 0.9
    """sgd: momentum, 0 up to but not including 1."""
    cycle_momentum: bool = False
    """sgd with onecycle_cosine: the momentum falls from 0.95 to 0.85 at the peak and rises again, as PyTorch's
    OneCycleLR has it unless told otherwise."""
    nesterov: bool = False
    """sgd: Nesterov's momentum, which must then be above 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """adamw: decay of its averages of the gradient and of the gradient's square, 0 up to but not including 1."""
    weight_decay: float = 5e-4
    """Weight decay, 0 or more."""
    decayed: Literal["all", "no_norms", "matrices"] = "all"
    """Which parameters have weight decay: all, no_norms (all but those of normalisation layers), matrices (no norm's
    and no bias)."""
    schedule: Literal["constant", "multistep", "cosine", "onecycle", "onecycle_cosine"] = "multistep"
    """multistep: times gamma at each milestone; cosine: after a warm-up along a cosine to final_lr; onecycle: linear up
    until peak, then down to 0; onecycle_cosine: from lr / 25 up to lr and down to lr / 25e4, both along a cosine."""
    every: Literal["step", "epoch"] = "step"
    """The schedule's rate changes at every step, or before every epoch alone."""
    peak: float = 0.3
    """onecycle, onecycle_cosine: share of the steps after which the rate is highest, above 0 and below 1."""
    warmup_epochs: float = 0.0
    """cosine: epochs of a linear warm-up from warmup_lr to lr, 0 or more."""
    warmup_lr: float = 0.0
    """cosine: learning rate at the start of the warm-up, 0 or more."""
    final_lr: float = 0.0
    """cosine: learning rate at the end, 0 or more."""
    milestones: tuple[int, ...] = (60, 120, 160)
    """multistep: the epochs before which the rate drops, rising."""
    gamma: float = 0.2
    """multistep: factor at each milestone, above 0 and at most 1."""
    clip_norm: float | None = None
    """Largest norm of each model's whole gradient, above 0; a longer one is scaled down to it. null: no limit."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 or more, below 1")
        require(not self.nesterov or self.momentum > 0, "optim.nesterov", self.nesterov, "false with momentum 0")
        betas = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(betas, "optim.betas", list(self.betas), "two numbers of 0 or more, below 1, such as [0.9, 0.999]")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(0 < self.peak < 1, "optim.peak", self.peak, "above 0, below 1")
        for name in ("warmup_epochs", "warmup_lr", "final_lr"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "0 or more")
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(m >= 1 for m in self.milestones)
        require(
            rising, "optim.milestones", list(self.milestones), "epochs of 1 or more, rising, such as [60, 120, 160]"
        )
        require(0 < self.gamma <= 1, "optim.gamma", self.gamma, "above 0, at most 1")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "above 0, or null")
