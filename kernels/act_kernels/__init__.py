"""Fused kernels for adversarial training, usable in any PyTorch trainer: PGD step and KL + cross-entropy losses."""

from .dispatch import backends, use_backend
from .losses import ActLoss, act_loss, attack_grad, kl_ce_loss, trades_loss
from .pgd import PGD
from .steps import pgd_step, random_start

__version__ = "0.1.0"

__all__ = [
    "PGD",
    "ActLoss",
    "__version__",
    "act_loss",
    "attack_grad",
    "backends",
    "kl_ce_loss",
    "pgd_step",
    "random_start",
    "trades_loss",
    "use_backend",
]
