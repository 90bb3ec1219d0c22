"""The specification: every op in a few lines of PyTorch, for any device and floating dtype (float64 in float64)."""

import torch

from act_kernels.reference.act_loss import act_loss
from act_kernels.reference.kl_ce_loss import kl_ce_loss
from act_kernels.reference.pgd_step import pgd_step
from act_kernels.reference.random_start import random_start
from act_kernels.reference.rescale import rescale_

__all__ = ["act_loss", "kl_ce_loss", "pgd_step", "random_start", "rescale_", "why_not"]


def why_not(op: str, device: str, dtype: torch.dtype) -> None:
    """The reference runs everywhere."""
