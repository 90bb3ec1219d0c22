"""What one training step needs, measured on tensors that have shapes and no content: no data, no time, no GPU.

The objective's own `losses` is run on fake tensors, with the attack's loop taken out and one of its steps measured
beside it, so that a new objective is planned for without a word here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from act_engine.objectives import Objective

BATCHES = (2, 4)  # two, to tell what grows with the batch from what does not


@dataclass(frozen=True)
class Step:
    """What one training step costs, for one image and for the models themselves."""

    parameter_sizes: dict[str, list[int]]  # elements of each parameter of each trained model
    buffer_bytes: int  # of all models: BatchNorm's statistics, and all of a frozen teacher
    train_passes: dict[str, int]  # forward and backward passes of each model, an image
    clean_passes: int  # forward passes that the objective makes for its attack's target alone
    train_flops: int  # an image, all passes but the attack's
    attack_flops: int  # an image and attack step: forward and input gradient
    activation_bytes: float  # an image, at the step's peak
    fixed_bytes: float  # held at that peak whatever the batch: weights in the autocast dtype

    @property
    def parameters(self) -> dict[str, int]:
        """The number of parameters of each trained model."""
        return {name: sum(sizes) for name, sizes in self.parameter_sizes.items()}


def measure_step(
    objective: Objective,
    build: Callable[[str], nn.Module],
    image_shape: tuple[int, int, int],
    *,
    autocast: torch.dtype | None = None,
) -> Step:
    """Measure one step of `objective` with the models `build(name)`, at a batch of 2 and of 4.

    Activations are the tensors that autograd keeps for the backward passes, each storage once; the allocator's and the
    libraries' workspaces come on top. FLOP count a multiplication and an addition as two.
    """
    with torch.device("meta"):
        models = {name: build(name) for name in (*objective.trains, *objective.frozen)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        models = {name: model.to_empty(device="cpu") for name, model in models.items()}
        small, large = (_measure(objective, models, image_shape, batch, autocast) for batch in BATCHES)
        growth = (large.held - small.held) / (BATCHES[1] - BATCHES[0])
        return Step(
            parameter_sizes={name: [p.numel() for p in models[name].parameters()] for name in objective.trains},
            buffer_bytes=sum(b.nbytes for model in models.values() for b in model.buffers())
            + sum(p.nbytes for name in objective.frozen for p in models[name].parameters()),
            train_passes={
                name: small.passes[name] - (small.clean if name == "robust" else 0) for name in objective.trains
            },
            clean_passes=small.clean,
            train_flops=small.train_flops // BATCHES[0],
            attack_flops=small.attack_flops // BATCHES[0],
            activation_bytes=growth,
            fixed_bytes=max(0.0, small.held - growth * BATCHES[0]),
        )


@dataclass(frozen=True)
class _Measured:
    held: int
    passes: dict[str, int]
    clean: int
    train_flops: int
    attack_flops: int


class _Saved:
    """The bytes that autograd keeps while it is entered, apart from the models' own tensors."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        self.bytes = 0
        own = (tensor for model in models.values() for tensor in (*model.parameters(), *model.buffers()))
        self._seen = {tensor.untyped_storage()._cdata for tensor in own}
        self._kept: list[Tensor] = []  # so that no storage's address is used twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._kept.append(tensor.detach())
            self.bytes += storage.nbytes()
        return tensor


class _AttackNotRun:
    """Stands in for the attack: notes what is held when the objective calls it, and gives the images back."""

    def __init__(self, model: Callable[[Tensor], Tensor], saved: _Saved) -> None:
        self._model, self._saved = model, saved
        self.held_before = 0
        self.clean_passes = 0

    def __call__(self, images: Tensor, labels: Tensor, target_logits: Tensor | None = None) -> Tensor:
        self.held_before = self._saved.bytes
        return images.clone()

    def clean_logits(self, images: Tensor) -> Tensor:
        self.clean_passes += 1
        with torch.no_grad():
            return self._model(images)


def _measure(
    objective: Objective,
    models: Mapping[str, nn.Module],
    image_shape: tuple[int, int, int],
    batch: int,
    autocast: torch.dtype | None,
) -> _Measured:
    images, labels = torch.rand(batch, *image_shape), torch.zeros(batch, dtype=torch.int64)
    passes = dict.fromkeys(models, 0)
    saved = _Saved(models)

    def counted(name: str) -> Callable[[Tensor], Tensor]:
        def forward(inputs: Tensor) -> Tensor:
            passes[name] += 1
            with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
                return models[name](inputs).float()

        return forward

    calls = {name: counted(name) for name in models}
    for name in objective.frozen:
        models[name].eval().requires_grad_(False)
        calls[name] = torch.no_grad()(calls[name])
    attack = _AttackNotRun(calls.get("robust", lambda inputs: inputs), saved)
    with FlopCounterMode(display=False) as counter:
        with saved.hooks:
            losses = objective.losses(calls, attack, images, labels)
        for loss in losses.values():
            loss.backward()
    train_passes = dict(passes)
    attack_flops, attack_held = 0, 0
    if objective.attack_loss != "none":
        attack_flops, attack_held = _attack_step(models["robust"], calls["robust"], images, models)
    return _Measured(
        held=max(saved.bytes, attack.held_before + attack_held),
        passes=train_passes,
        clean=attack.clean_passes,
        train_flops=counter.get_total_flops(),
        attack_flops=attack_flops,
    )


def _attack_step(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, models: Mapping[str, nn.Module]
) -> tuple[int, int]:
    """Return the FLOP and the bytes kept of one forward and input gradient of the frozen model in eval mode."""
    x_adv = images.clone().requires_grad_()
    saved = _Saved(models)
    model.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        with saved.hooks:
            logits = forward(x_adv)
        logits.sum().backward()  # to the images alone: the parameters are frozen
    model.train().requires_grad_(True)
    return counter.get_total_flops(), saved.bytes
