"""A learner: one model with its optimizer, learning-rate schedule, precision and averaged weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from act_engine.attack import AUTOCAST, AttackView, Inputs, LiveView
from act_engine.models.recompute import Recompute, repeated_blocks
from act_engine.models.side_by_side import lay_side_by_side

OPTIMIZER_STATE = ("momentum_buffer", "step", "exp_avg", "exp_avg_sq")
"""What SGD and AdamW keep for a parameter."""


class Learner:
    """One model as the trainer drives it: called for logits, then `backward`, and after `accumulate` of those, `step`.

    This is the strategy of a single process; the others derive from it and change only what differs.

    Args:
        model: takes images [B, C, H, W] in [0, 1]; moved to `device`.
        lr_at: learning rate as a function of the number of steps taken.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum: of SGD: a number, or a function of the number of steps taken.
        nesterov: of SGD: step along the momentum that the next step would begin with.
        betas: of AdamW.
        weight_decay: of either.
        decayed: which parameters have weight decay: ``"all"``, ``"no_norms"`` (all but those of normalisation layers)
            or ``"matrices"`` (those of two dimensions or more: no norm's and no bias).
        channels_last: keep images and convolution weights in that layout.
        compile: run the model through torch.compile.
        precision: ``"float32"``: as the weights are; ``"bfloat16"``, ``"float16"``: autocast (float16: loss scaling).
        accumulate: backward passes a step; their gradients are averaged.
        clip_norm: largest norm of the whole gradient; a longer one is scaled down to it. None: no limit.
        recompute: keep fewer activations between the forward and the backward pass, and pay with a second forward pass:
            ``"none"``; ``"model"``: the images alone; ``"blocks"``: the inputs of each block, in attacks too.
        ema_decay: keep a moving average of the weights, with a decay that rises to this (`average_decay`). None: none.
        ema_start: the average is the model itself until so many steps are taken, with which its decay begins.
        ema_buffers: ``"averaged"`` like the weights, or ``"copied"``: BatchNorm's statistics are the model's.
        batchnorm_momentum: weight of a batch in BatchNorm's running statistics; None: as each layer has it.
        batchnorm_first: the same in the very first step; None: as in the others.
    """

    sharded: ClassVar[bool] = False
    """Whether it has `shards`."""
    sgd: ClassVar[dict[str, bool]] = {"fused": True}
    """How SGD goes through the parameters."""

    def __init__(
        self,
        model: nn.Module,
        *,
        lr_at: Callable[[int], float],
        optimizer: str = "sgd",
        momentum: float | Callable[[int], float] = 0.9,
        nesterov: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 5e-4,
        decayed: str = "all",
        precision: str = "float32",
        channels_last: bool = False,
        compile: bool = False,
        device: str | torch.device = "cpu",
        accumulate: int = 1,
        clip_norm: float | None = None,
        recompute: str = "none",
        ema_decay: float | None = None,
        ema_start: float = 0,
        ema_buffers: str = "averaged",
        batchnorm_momentum: float | None = None,
        batchnorm_first: float | None = None,
    ) -> None:
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = lay_side_by_side(model.to(device, memory_format=self._memory_format)).train()
        self._inputs = Inputs(self._memory_format)
        self._compile = compile
        self.recompute = recompute
        self._recomputed = Recompute(self._whole_or_blocks(self.module))
        self._bare_recomputed = self._blocks_recomputed()
        self._trained = self.module
        self._distribute()
        if compile:
            self._compile_trained()
        self.lr_at, self.steps_taken = lr_at, 0
        self._momentum_at = momentum if callable(momentum) else None
        groups = decay_groups(self._trained, weight_decay, decayed)
        if optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(groups, lr=lr_at(0), betas=betas, fused=True)
        else:
            first = momentum(0) if callable(momentum) else momentum
            self.optimizer = torch.optim.SGD(groups, lr=lr_at(0), momentum=first, nesterov=nesterov, **self.sgd)
        self.accumulate, self.clip_norm, self.ema_decay = accumulate, clip_norm, ema_decay
        self.ema_start, self.ema_buffers = ema_start, ema_buffers
        self._batchnorms = [(m, m.momentum) for m in self._trained.modules() if isinstance(m, _BatchNorm)]
        self.batchnorm_momentum, self.batchnorm_first = batchnorm_momentum, batchnorm_first
        self._set_batchnorm()
        self._backwards = 0  # since the last step
        self.precision, self._autocast = precision, AUTOCAST[precision]
        self._scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "float16")
        self._average = {} if ema_decay is None else {k: v.detach().clone() for k, v in self._averaged().items()}

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes], float32 or wider, for images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255."""
        with self._recomputed.active():
            return self._logits(self._training_forward, images)

    def bare(self, images: Tensor) -> Tensor:
        """The same through the bare `module`, in whatever mode it is: no hook, no collective."""
        with self._bare_recomputed.active():
            return self._logits(self.module, images)

    def gradients(self, loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradient of a `bare` pass's loss to parameters of `module`, its mean over ranks; no step sees it."""
        return list(torch.autograd.grad(loss, parameters))

    def attack_view(self, fold: bool = True) -> AttackView | LiveView:
        """The fastest view of the model for an attack: no hook and no collective in it."""
        return AttackView(
            self.module,
            precision=self.precision,
            fold=fold,
            channels_last=self._memory_format is torch.channels_last,
            compile=self._compile,
            recompute=self.recompute == "blocks",
        )

    def live_view(self, train: bool = False) -> LiveView:
        """The bare `module` itself as a view, in eval mode or in train mode: no hook, no collective."""
        return LiveView(self.module, self.bare, self.whole, self._autocast, train)

    def whole(self) -> AbstractContextManager:
        """Inside it the parameters of `module` are all there; entered by all ranks together, and as often as wished."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add this loss's gradient, a 1 / `accumulate` part of the step's; the mean over ranks by the last one."""
        self._scaler.scale(loss / self.accumulate if self.accumulate > 1 else loss).backward()
        self._backwards += 1

    def step(self) -> None:
        """One optimizer step at the schedule's learning rate; the gradients are released."""
        self._set_lr()
        if self.clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._trained.parameters(), self.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._end_step()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_at(self.steps_taken)

    def state_dict(self, keep: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a resumed learner of any strategy needs: tensors by name, as host copies, and plain values.

        All ranks call it together; one with ``keep=False`` only takes part and gets no tensors.
        """
        tensors = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    tensors[f"{key}.{name}"] = value
        tensors |= {f"ema.{name}": value for name, value in self._average.items()}
        return (host_copies(tensors) if keep else {}), self._values()

    def shards(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """`state_dict` without a gather: DTensors stand for this process's part of a tensor, on the host."""
        raise NotImplementedError

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, under this strategy or another."""
        self.module.load_state_dict(part(tensors, "model"))
        for name, parameter in self.module.named_parameters():
            for key in OPTIMIZER_STATE:
                if f"{key}.{name}" in tensors:
                    value = tensors[f"{key}.{name}"]
                    like = parameter if value.shape == parameter.shape else value
                    copy = torch.empty_like(like, device=parameter.device, dtype=value.dtype).copy_(value)
                    self.optimizer.state[parameter][key] = copy
        self._load_average(tensors)
        self._load_values(values)

    def _logits(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        batch = self._inputs(images)
        with torch.autocast(images.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            logits = forward(batch)
        self._inputs.seen(batch)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _training_forward(self, images: Tensor) -> Tensor:
        return self._trained(images)

    def _distribute(self) -> None:
        """Share `_trained`, the model that is trained, among the processes; `module` may become another for attacks."""

    def _compile_trained(self) -> None:
        self._trained.compile()

    def _whole_or_blocks(self, module: nn.Module) -> list[nn.Module]:
        return [module] if self.recompute == "model" else repeated_blocks(module) if self.recompute == "blocks" else []

    def _blocks_recomputed(self) -> Recompute:
        """What `bare` passes through `module` as it is now recompute: the whole model would save them nothing."""
        return Recompute([] if self.recompute == "model" else self._whole_or_blocks(self.module))

    def _set_lr(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
            if self._momentum_at is not None:
                group["momentum"] = self._momentum_at(self.steps_taken)

    def _end_step(self) -> None:
        self._backwards = 0
        self.steps_taken += 1
        self._set_batchnorm()
        if self._average:
            current = self._averaged()
            weight = 1 - average_decay(self.ema_decay, self.steps_taken - max(self.ema_start, 1))
            copied = {k for k, _ in self._trained.named_buffers()} if self.ema_buffers == "copied" else set()
            for names, share in (([k for k in self._average if k not in copied], weight), (sorted(copied), 1.0)):
                names = [k for k in names if k in self._average]
                if names:
                    averages, values = [self._average[k] for k in names], [current[k] for k in names]
                    torch._foreach_lerp_(averages, values, share)

    def _set_batchnorm(self) -> None:
        """Give BatchNorm the momentum of the next step."""
        first = self.batchnorm_first if self.steps_taken == 0 else None
        given = self.batchnorm_momentum if first is None else first
        for layer, own in self._batchnorms:
            layer.momentum = own if given is None else given

    def _averaged(self) -> dict[str, Tensor]:
        """What the moving average follows: every float entry of the state, BatchNorm's running statistics with it."""
        return {k: v for k, v in self.module.state_dict().items() if v.is_floating_point()}

    def _load_average(self, tensors: dict[str, Tensor]) -> None:
        for name, value in part(tensors, "ema").items():
            if name in self._average:
                self._average[name].copy_(value)

    def _values(self) -> dict[str, Any]:
        return {"steps_taken": self.steps_taken, "scaler": self._scaler.state_dict()}

    def _load_values(self, values: dict[str, Any]) -> None:
        self.steps_taken = values["steps_taken"]
        self._set_batchnorm()
        if values["scaler"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(values["scaler"])


def average_decay(decay: float, step: int) -> float:
    """The moving average's decay at step 0, 1, … of it: min(decay, (1 + step) / (10 + step)), and before them 0.

    So the random initialisation, of which a constant decay of 0.999 still holds 37 % after 1,000 steps, has a share of
    less than 1e-12 after a hundred (the warm-up of TensorFlow's ExponentialMovingAverage).
    """
    return min(decay, (1 + step) / (10 + step)) if step >= 0 else 0.0


def deployed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The plain state dict to deploy out of a learner's `state_dict`: the averaged weights where there are any."""
    return part(tensors, "model") | part(tensors, "ema")


def part(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The entries ``kind.name`` by their names."""
    return {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}


def host_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in host memory, contiguous and without shared storage; the GPU's come through pinned memory at once."""
    copies = {}
    for name, value in tensors.items():
        copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        copies[name] = copy.copy_(value.detach(), non_blocking=True)
    if any(value.is_cuda for value in tensors.values()):
        torch.cuda.current_stream().synchronize()
    return copies


def decay_groups(model: nn.Module, weight_decay: float, decayed: str) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: with and without weight decay, the former alone where `decayed` is ``"all"``.

    Norms are the classes of torch that are so called, and any whose name ends in ``Norm`` or ``Norm2d``, as timm's do.
    """
    if decayed == "all":
        return [{"params": list(model.parameters()), "weight_decay": weight_decay}]
    norms = {id(p) for module in model.modules() if _is_norm(module) for p in module.parameters(recurse=False)}

    def spared(parameter: nn.Parameter) -> bool:
        return id(parameter) in norms or (decayed == "matrices" and parameter.dim() < 2)

    groups = [
        {"params": [p for p in model.parameters() if not spared(p)], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if spared(p)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_norm(module: nn.Module) -> bool:
    known = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    return isinstance(module, known) or type(module).__name__.endswith(("Norm", "Norm2d"))
