"""The specification: every op in a few lines of PyTorch, for any device and floating dtype (float64 in float64)."""

import torch

from .act_loss import act_loss
from .kl_ce_loss import kl_ce_loss
from .pgd_step import pgd_step
from .random_start import random_start
from .rescale import rescale_

__all__ = ["act_loss", "kl_ce_loss", "pgd_step", "random_start", "rescale_", "why_not"]


def why_not(op: str, device: torch.device, dtype: torch.dtype) -> None:
    """The reference runs everywhere."""
