"""The plain loop with what PyTorch's tuning guide recommends: bfloat16 autocast and channels_last."""

import torch
from drivers.plain import steps

PACKAGE = "torch"
STEPS = steps(torch.bfloat16, torch.channels_last)
EVALUATIONS = {}
