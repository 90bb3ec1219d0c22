"""A learner under PyTorch's FSDP2, which shards weights, gradients and optimizer over processes, block by block."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from act_engine.attack import LiveView
from act_engine.learners.ddp import average, broadcast_state, running_statistics
from act_engine.learners.learner import OPTIMIZER_STATE, Learner, host_copies, part
from act_engine.models.recompute import repeated_blocks


class FSDPLearner(Learner):
    """`Learner` under `fully_shard`, applied to each block of the model and to what is left of it.

    As under ZeRO-3 the attack goes through `module`, a twin of the sharded model that shares its memory and has no
    hooks; it is filled by one gather of each block each time `whole` is entered. With ``gather_for_attack=False``
    `module` is the sharded model itself, gathered block by block in every pass. Its parameters are frozen then, so FSDP
    has no gradient to reduce.

    Args:
        shard_size: processes that share one copy of the weights, a divisor of their number; between such groups the
            gradients are averaged (hybrid sharding). None: all of them.
    """

    sharded = True
    sgd: ClassVar[dict[str, bool]] = {"foreach": True}  # the fused one does not take shards

    def __init__(
        self,
        model: nn.Module,
        *,
        gather_for_attack: bool = True,
        shard_size: int | None = None,
        device: str | torch.device = "cpu",
        **settings: Any,
    ) -> None:
        self._mesh = _mesh(torch.device(device).type, shard_size)
        self._gathers, self._entered = gather_for_attack, 0
        super().__init__(model, device=device, **settings)

    def attack_view(self, fold: bool = True) -> LiveView:
        return self.live_view()  # shards cannot be copied as a whole

    @contextmanager
    def whole(self) -> Iterator[None]:
        if not self._gathers or self._entered:
            yield
            return
        self._entered += 1
        try:
            for piece in self._parts:
                piece.unshard()
            for parameter, twin in zip(self._trained.parameters(), self.module.parameters(), strict=True):
                twin.data = parameter.data
            yield
        finally:
            self._entered -= 1
            self._empty_twin()
            for piece in self._parts:
                piece.reshard()

    def backward(self, loss: Tensor) -> None:
        last = self._backwards == self.accumulate - 1
        self._trained.set_requires_gradient_sync(last)
        super().backward(loss)

    def state_dict(self, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        for name, value in self._state().items():  # one at a time: the device never holds more than one gathered
            full = value.full_tensor() if _is_sharded(value) else value
            if keep:
                tensors.update(host_copies({name: full}))
        return tensors, self._values()

    def shards(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self._state()
        copies = host_copies({name: _local(value) for name, value in state.items()})
        return {name: _as(copy, state[name]) for name, copy in copies.items()}, self._values()

    def _state(self) -> dict[str, Tensor]:
        """The tensors of `state_dict` as this process holds them: DTensors where they are sharded."""
        tensors = {f"model.{name}": value for name, value in self._trained.state_dict().items()}
        for name, parameter in self._trained.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    tensors[f"{key}.{name}"] = value
        return tensors | {f"ema.{name}": _as(value, tensors[f"model.{name}"]) for name, value in self._average.items()}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        weights, averages = part(tensors, "model"), part(tensors, "ema")
        for name, own in self._trained.state_dict().items():
            _local(own).copy_(_shard(weights[name], own))
            if name in self._average and name in averages:
                self._average[name].copy_(_shard(averages[name], own))
        for name, parameter in self._trained.named_parameters():
            for key in OPTIMIZER_STATE:
                if (value := tensors.get(f"{key}.{name}")) is None:
                    continue
                if value.shape != parameter.shape:  # the count of steps
                    self.optimizer.state[parameter][key] = value.to(parameter.device, copy=True)
                    continue
                state = torch.empty_like(parameter, requires_grad=False)
                _local(state).copy_(_shard(value, parameter))
                self.optimizer.state[parameter][key] = state
        self._load_values(values)

    def _distribute(self) -> None:
        from torch.distributed.fsdp import FSDPModule, fully_shard

        model = self.module.to(memory_format=torch.contiguous_format)  # it shards no other layout
        broadcast_state(model)
        self._statistics = running_statistics(model)
        twin = copy.deepcopy(model).requires_grad_(False) if self._gathers else None
        for block in repeated_blocks(model):
            if self._compile:
                block.compile()
            fully_shard(block, mesh=self._mesh)
        fully_shard(model, mesh=self._mesh)
        self._parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for piece in self._parts:
            if self._mesh.device_type == "cpu":
                piece.set_force_sum_reduction_for_comms(True)  # gloo has no mean
        if twin is not None:
            self.module = twin
            for module, shadow in zip(model.modules(), twin.modules(), strict=True):
                shadow._buffers = module._buffers
            self._empty_twin()
            self._bare_recomputed = self._blocks_recomputed()

    def _compile_trained(self) -> None:
        """Nothing: the blocks are compiled one by one, each between its gathers."""

    def _averaged(self) -> dict[str, Tensor]:
        return {k: _local(v) for k, v in self._trained.state_dict().items() if v.is_floating_point()}

    def _end_step(self) -> None:
        average(self._statistics)
        super()._end_step()

    def _empty_twin(self) -> None:
        for twin in self.module.parameters() if self._gathers else ():
            twin.data = torch.empty(0, dtype=twin.dtype, device=twin.device)


def _mesh(device_type: str, shard_size: int | None) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    size = dist.get_world_size()
    shard_size = shard_size or size
    if size == shard_size:
        return init_device_mesh(device_type, (size,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (size // shard_size, shard_size), mesh_dim_names=("replicate", "shard"))


def _is_sharded(value: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def _local(value: Tensor) -> Tensor:
    return value.to_local() if _is_sharded(value) else value


def _shard(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of the whole `value`, cut as `like` is."""
    if not _is_sharded(like):
        return value
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
    return value[tuple(slice(at, at + length) for at, length in zip(offset, shape, strict=True))]


def _as(local: Tensor, like: Tensor) -> Tensor:
    """A local tensor as the DTensor of which it is this rank's part, cut as `like` is."""
    if not _is_sharded(like):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor(local, like._spec, requires_grad=False)  # `from_local` would move it to the mesh's device
