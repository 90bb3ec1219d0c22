"""A learner whose gradient is averaged over processes, each of which holds the whole model."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from act_engine.learners.learner import Learner


class DDPLearner(Learner):
    """`Learner` under DistributedDataParallel: gradients are reduced while the backward pass goes on.

    Buffers are not broadcast in the forward pass (TRADES has two forward passes before its backward one); instead the
    running statistics of BatchNorm are averaged after each step, so that every rank attacks, evaluates and saves the
    same model.
    """

    def __init__(self, model: nn.Module, *, device: str | torch.device = "cpu", **settings: Any) -> None:
        super().__init__(model, device=device, **settings)
        broadcast_state(self.module)
        self._ddp = DistributedDataParallel(self.module, broadcast_buffers=False, gradient_as_bucket_view=True)
        self._statistics = running_statistics(self.module)

    def gradients(self, loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        gradients = super().gradients(loss, parameters)
        average(gradients)
        return gradients

    def _training_forward(self, images: Tensor) -> Tensor:
        if self._backwards < self.accumulate - 1:
            with self._ddp.no_sync():  # the forward pass decides whether the backward one reduces
                return self._ddp(images)
        return self._ddp(images)

    def _end_step(self) -> None:
        average(self._statistics)
        super()._end_step()


def broadcast_state(module: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    for value in module.state_dict().values():
        dist.broadcast(value, 0)


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The BatchNorm buffers that differ from rank to rank; SyncBatchNorm's do not."""
    layers = [m for m in module.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]
    return [buffer for m in layers for buffer in (m.running_mean, m.running_var) if buffer is not None]


def average(tensors: list[Tensor]) -> None:
    """Replace tensors of one dtype by their means over all ranks, in one collective."""
    if not tensors or dist.get_world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))
