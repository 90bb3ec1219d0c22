"""A learner: one model with its optimizer, learning-rate schedule and precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.attack import AUTOCAST, unit_range


class Learner:
    """One model as the trainer drives it: called for logits, then `backward`, then `step`.

    Args:
        model: takes images [B, C, H, W] in [0, 1]; moved to `device`.
        lr_at: learning rate as a function of the number of steps taken.
        optimizer: ``"sgd"`` or ``"adamw"``.
        momentum: of SGD.
        weight_decay: of either.
        channels_last: keep images and convolution weights in that layout.
        compile: run the model through torch.compile.
        precision: ``"float32"``: as the weights are; ``"bfloat16"``, ``"float16"``: autocast (float16: loss scaling).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr_at: Callable[[int], float],
        optimizer: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        precision: str = "float32",
        channels_last: bool = False,
        compile: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.module = model.to(device, memory_format=self._memory_format).train()
        self._forward = torch.compile(self.module) if compile else self.module
        self.lr_at, self.steps_taken = lr_at, 0
        self.optimizer = _optimizer(optimizer, self.module, lr_at(0), momentum, weight_decay)
        self._autocast = AUTOCAST[precision]
        self._scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "float16")

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes], float32 or wider, for images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255."""
        images = unit_range(images).contiguous(memory_format=self._memory_format)
        with torch.autocast(images.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            logits = self._forward(images)
        return logits if logits.dtype == torch.float64 else logits.float()

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()

    def step(self) -> None:
        """One optimizer step at the schedule's learning rate; the gradients are released."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_taken += 1

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.lr_at(self.steps_taken)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a resumed learner needs: tensors by name, and plain values."""
        tensors = {f"model.{name}": value for name, value in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    tensors[f"{key}.{name}"] = value
        return tensors, {"steps_taken": self.steps_taken, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        prefix = "model."
        self.module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in self.module.named_parameters():
            for key in ("momentum_buffer", "step", "exp_avg", "exp_avg_sq"):
                if f"{key}.{name}" in tensors:
                    value = tensors[f"{key}.{name}"].to(parameter.device, copy=True)
                    self.optimizer.state[parameter][key] = value
        self.steps_taken = values["steps_taken"]
        if values["scaler"]:
            self._scaler.load_state_dict(values["scaler"])


def _optimizer(name: str, model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
