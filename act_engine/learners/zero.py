"""A learner under DeepSpeed, whose ZeRO stages shard optimizer (1), gradients (2) and parameters (3) over processes."""

import copy
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from act_engine.attack import AttackView, LiveView
from act_engine.errors import shown
from act_engine.learners.ddp import average, broadcast_state, running_statistics
from act_engine.learners.learner import OPTIMIZER_STATE, Learner, host_copies, part

BUCKET = 2**26
"""Elements that DeepSpeed reduces or gathers at a time: 256 MiB in float32, where its own default takes 2 GB."""

# What a file of further settings may hold; everything else follows from the run's own settings.
PASSED_THROUGH = (
    "zero_optimization",
    "aio",
    "comms_logger",
    "communication_data_type",
    "flops_profiler",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
)


class ZeroLearner(Learner):
    """`Learner` under a DeepSpeed engine, at any ZeRO stage.

    The attack goes through `module`, a twin of the engine's model that shares its parameters' memory but has no hooks,
    so an attack can neither reduce, consume nor rescale a gradient. Under stage 3 the twin is filled by one gather each
    time `whole` is entered; with ``gather_for_attack=False`` `module` is the engine's own, gathered layer by layer in
    every pass, for models that do not fit in one piece.

    Args:
        stage: 0 to 3.
        batch_size: images a backward pass and rank; DeepSpeed wants to know.
        offload: keep the optimizer's state, and do its step, on the CPU; stages 1 to 3.
        extra: further DeepSpeed settings (`read_settings`).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        stage: int,
        batch_size: int,
        offload: bool = False,
        gather_for_attack: bool = True,
        extra: dict[str, Any] | None = None,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        **settings: Any,
    ) -> None:
        deepspeed = import_deepspeed(torch.device(device).type)
        super().__init__(model, device=device, precision=precision, **settings)
        model.to(memory_format=torch.contiguous_format)  # it flattens every weight, in this order alone
        broadcast_state(model)
        self._statistics = running_statistics(model)
        self._deepspeed, self._stage, self._entered, self._linked = deepspeed, stage, 0, False
        self._twin = copy.deepcopy(model).requires_grad_(False) if stage < 3 or gather_for_attack else None
        self._basic = self.optimizer
        self._engine, self.optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=self._basic,
            config=deepspeed_settings(
                stage=stage,
                batch_size=batch_size,
                accumulate=self.accumulate,
                clip_norm=self.clip_norm,
                precision=precision,
                offload=offload,
                bucket=min(BUCKET, sum(parameter.numel() for parameter in model.parameters())),
                extra=extra or {},
            ),
            dist_init_required=False,
        )
        if self._twin is not None:
            self.module = self._twin
            for module, twin in zip(model.modules(), self._twin.modules(), strict=True):
                twin._buffers = module._buffers
            self._bare_recomputed = self._blocks_recomputed()
            self._fill_twin() if stage < 3 else self._empty_twin()
        if stage == 3 and self._average:
            self._average = {name: value.detach().clone() for name, value in self._averaged().items()}

    def attack_view(self, fold: bool = True) -> AttackView | LiveView:
        return super().attack_view(fold) if self._stage < 3 else self.live_view()  # shards cannot be copied as a whole

    @contextmanager
    def whole(self) -> Iterator[None]:
        if self._stage < 3 or self._twin is None or self._entered:
            yield
            return
        self._entered += 1
        try:
            with self._deepspeed.zero.GatheredParameters(list(self._engine.module.parameters())):
                self._fill_twin()
                yield
        finally:
            self._entered -= 1
            self._empty_twin()

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)  # scales by 1 / accumulate itself
        self._backwards += 1
        if self._backwards < self.accumulate:
            self._engine.step()  # counts the backward pass, no more

    def step(self) -> None:
        self._set_lr()
        self._engine.step()
        self._link_state()
        average(self._statistics)
        self._end_step()

    def state_dict(self, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}

        def take(name: str, value: Tensor) -> None:  # one at a time: the device never holds more than one gathered
            if keep:
                tensors.update(host_copies({name: value}))

        for name, value in self._engine.module.state_dict(keep_vars=True).items():
            if not isinstance(value, nn.Parameter):
                take(f"model.{name}", value)
            else:
                take(f"model.{name}", self._gathered(value))
                for key in self._state_keys():
                    take(f"{key}.{name}", self._gathered_state(value, key))
            if name in self._average:
                shard = self._average[name]
                sharded = self._stage == 3 and isinstance(value, nn.Parameter)
                take(f"ema.{name}", _gather_shards(shard, value) if sharded else shard)
        return tensors, {"steps_taken": self.steps_taken, "scaler": {}}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        weights, averages = part(tensors, "model"), part(tensors, "ema")
        states = {key: state for key in OPTIMIZER_STATE if (state := part(tensors, key))}
        if self._stage > 0:
            self._make_state(states)
        for name, value in self._engine.module.state_dict(keep_vars=True).items():
            if isinstance(value, nn.Parameter):
                self._set_parameter(value, weights[name])
                for key, state in states.items():
                    self._set_state(value, key, state[name])
            else:
                value.copy_(weights[name])
            if name in self._average and name in averages:
                sharded = self._stage == 3 and isinstance(value, nn.Parameter)
                self._average[name].copy_(_shard(averages[name], value) if sharded else averages[name])
        self._load_values(values)

    def _training_forward(self, images: Tensor) -> Tensor:
        return self._engine(images)

    def _averaged(self) -> dict[str, Tensor]:
        engine = getattr(self, "_engine", None)
        if engine is None or self._stage < 3:
            return super()._averaged()
        state = engine.module.state_dict(keep_vars=True)
        floats = {name: value for name, value in state.items() if value.is_floating_point()}
        return {n: v.ds_tensor.data if isinstance(v, nn.Parameter) else v for n, v in floats.items()}

    def _fill_twin(self) -> None:
        for parameter, twin in zip(self._engine.module.parameters(), self._twin.parameters(), strict=True):
            twin.data = parameter.data

    def _empty_twin(self) -> None:
        for twin in self._twin.parameters():
            twin.data = torch.empty(0, dtype=twin.dtype, device=twin.device)

    def _gathered(self, parameter: nn.Parameter) -> Tensor:
        return self._deepspeed.utils.safe_get_full_fp32_param(parameter) if self._stage == 3 else parameter.data

    def _link_state(self) -> None:
        """Let DeepSpeed find every parameter's optimizer state: it looks after the first group's first step alone."""
        if not self._linked and self._stage in (1, 2):
            zero = self._engine.optimizer
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
        self._linked = True

    def _state_keys(self) -> list[str]:
        """What the optimizer keeps for every parameter by now."""
        state = next(iter(self._basic.state.values()), {})
        return [key for key in OPTIMIZER_STATE if isinstance(state.get(key), Tensor)]

    def _gathered_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self._stage == 0:
            return self._basic.state[parameter][key]
        if key == "step":  # one number, the same for every shard
            return next(iter(self._basic.state.values()))["step"]
        return self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)

    def _set_parameter(self, parameter: nn.Parameter, value: Tensor) -> None:
        value = value.to(parameter.device)
        if self._stage == 3:
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(value)
            self._deepspeed.utils.safe_set_local_fp32_param(parameter, _shard(value, parameter))
            return
        parameter.data.copy_(value)
        if self._stage > 0:
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)

    def _set_state(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        value = value.to(parameter.device)
        if self._stage == 0:
            self._basic.state[parameter][key] = value.clone()
        elif key == "step":
            pass  # set for the shards by `_make_state`
        elif self._stage == 3:
            self._deepspeed.utils.safe_set_local_optimizer_state(parameter, _shard(value, parameter), key)
        else:
            self._deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)

    def _make_state(self, states: dict[str, dict[str, Tensor]]) -> None:
        """Make the state that the optimizer would make in its first step, so that there is something to fill."""
        zero = self._engine.optimizer
        shards = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for shard in shards:
            for key, state in states.items():
                if key == "step":
                    self._basic.state[shard][key] = next(iter(state.values())).to(shard.device, copy=True)
                else:
                    self._basic.state[shard][key] = torch.zeros_like(shard)
        if self._stage < 3 and states:
            zero._lazy_init_hp_params_optimizer_state()


def deepspeed_settings(
    *,
    stage: int,
    batch_size: int,
    accumulate: int,
    clip_norm: float | None,
    precision: str,
    offload: bool,
    bucket: int,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """DeepSpeed's own configuration, for these settings of a run; `bucket` is in elements; `extra` is put over it."""
    zero: dict[str, Any] = {
        "stage": stage,
        "memory_efficient_linear": False,  # it would compute weight gradients in the attack
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": clip_norm or 0.0,
        "zero_allow_untested_optimizer": True,  # that is SGD
        "zero_force_ds_cpu_optimizer": False,
    }
    if precision != "float32":
        # Autocast, not DeepSpeed's bf16 mode, which casts buffers too; gradients are reduced in float32.
        settings["torch_autocast"] = {"enabled": True, "dtype": precision, "lower_precision_safe_modules": []}
    rest = {name: value for name, value in extra.items() if name != "zero_optimization"}
    return settings | rest | {"zero_optimization": zero | extra.get("zero_optimization", {})}


def read_settings(path: str | None) -> dict[str, Any]:
    """Further DeepSpeed settings from a JSON file, checked.

    Raises:
        ValueError: no such file, not JSON, or a setting that the run's own settings decide.
    """
    if path is None:
        return {}
    setting = "parallel.deepspeed_config"
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is no file")
        extra = json.loads(Path(path).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{setting}: cannot read {path!r} as JSON: {error}") from error
    unknown = sorted(set(extra) - set(PASSED_THROUGH)) if isinstance(extra, dict) else ["not a mapping"]
    if unknown:
        raise ValueError(
            f"{setting}: {path!r} has {', '.join(unknown)}; allowed: {', '.join(PASSED_THROUGH)} "
            "(the run's own settings decide the rest)"
        )
    zero = extra.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError(f"{setting}: {path!r} has zero_optimization {shown(zero)}; allowed: an object of its settings")
    decided = sorted({"stage", "offload_optimizer", "memory_efficient_linear"} & set(zero))
    if decided:
        raise ValueError(f"{setting}: {path!r} has zero_optimization {', '.join(decided)}; parallel.* decides that")
    import_deepspeed()
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    try:
        DeepSpeedZeroConfig(**zero)
    except ValueError as error:  # pydantic's, one line a mistake
        raise ValueError(f"{setting}: {path!r}, zero_optimization: {' '.join(str(error).split())}") from error
    return extra


def import_deepspeed(device_type: str | None = None) -> ModuleType:
    """DeepSpeed, on this kind of device, without its chatter.

    Raises:
        ValueError: it is not installed.
    """
    if device_type is not None:
        os.environ.setdefault("DS_ACCELERATOR", device_type)
        os.environ.setdefault("LOCAL_RANK", "0")  # it asks for it; without torchrun there is one process
    try:
        import deepspeed
    except ImportError as error:
        raise ValueError(
            "parallel.strategy: got 'deepspeed', which is not installed; pip install 'act-engine[distributed]'"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # On the CPU it would compile a collective for inference at run time, for minutes, that training never calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _shard(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's run of the flattened `value`, padded with zeros to the length of the parameter's partition."""
    length = parameter.ds_tensor.ds_numel
    mine = value.flatten()[dist.get_rank() * length :][:length]
    return torch.cat([mine, mine.new_zeros(length - len(mine))]).to(parameter.ds_tensor.device)


def _gather_shards(shard: Tensor, parameter: nn.Parameter) -> Tensor:
    full = torch.empty(len(shard) * dist.get_world_size(), dtype=shard.dtype, device=shard.device)
    dist.all_gather_into_tensor(full, shard.contiguous())
    return full[: parameter.ds_numel].view(parameter.ds_shape)
