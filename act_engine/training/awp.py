"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020, arXiv 2004.05884), around any training method."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from act_engine.attack import Attack
from act_engine.learners import Learner, kept_buffers
from act_engine.objectives import Objective
from act_engine.objectives.base import Models


class WeightPerturbation:
    """Losses at weights moved to where the model's own loss is higher: w + gamma · ‖w‖ · g / ‖g‖, layer by layer.

    g is the loss's gradient at the unmoved weights, of the whole batch over all ranks: the direction of one ascent step
    on a copy of them. Weights are those of two dimensions or more; biases and BatchNorm stay. The ascent's pass leaves
    no trace in BatchNorm's statistics, and what other models and the attack gave it is used again for the losses.

    Args:
        learner: of the model to move: the robust one, or the only one.
        name: its name among the models.
        gamma: length of the move, relative to each layer's norm.
    """

    def __init__(self, learner: Learner, name: str, gamma: float) -> None:
        self.learner, self.name, self.gamma = learner, name, gamma
        self._weights = [p for p in learner.module.parameters() if p.dim() >= 2 and p.requires_grad]
        self._unmoved: list[tuple[Tensor, Tensor]] = []  # weight, its value

    def losses(
        self, objective: Objective, models: Models, attack: Attack | None, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The objective's losses at the moved weights, where they stay until `remove`: after the backward passes."""
        recorded: dict[str, Any] = {name: _Recorded(model) for name, model in models.items() if name != self.name}
        if attack is not None:
            attack = _RecordedAttack(attack)
        with kept_buffers(self.learner.module):
            loss = objective.losses({**recorded, self.name: self.learner.bare}, attack, images, labels)[self.name]
            self._move(self.learner.gradients(loss, self._weights))
        for replayed in (*recorded.values(), *([attack] if attack is not None else [])):
            replayed.rewind()
        return objective.losses({**recorded, self.name: models[self.name]}, attack, images, labels)

    @torch.no_grad()
    def remove(self) -> None:
        """Put the weights back, bit for bit."""
        for weight, value in self._unmoved:
            weight.copy_(value)
        self._unmoved = []

    @torch.no_grad()
    def _move(self, gradients: list[Tensor]) -> None:
        self._unmoved = [(weight, weight.clone()) for weight in self._weights]
        for weight, gradient in zip(self._weights, gradients, strict=True):
            length = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)  # a zero gradient moves nothing
            weight.add_(gradient * (self.gamma * weight.norm() / length))


class _Recorded:
    """A function that, once rewound, gives what it gave before, call by call."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._results: list[Tensor] = []
        self._position = 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        if self._position == len(self._results):
            self._results.append(self._function(*arguments))
        self._position += 1
        return self._results[self._position - 1]

    def rewind(self) -> None:
        self._position = 0


class _RecordedAttack(_Recorded):
    def __init__(self, attack: Attack) -> None:
        super().__init__(attack)
        self.clean_logits = _Recorded(attack.clean_logits)

    def rewind(self) -> None:
        super().rewind()
        self.clean_logits.rewind()
