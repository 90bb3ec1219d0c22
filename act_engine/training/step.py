"""One training step: the attack, the losses of every model, and one update of each."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.profiler import record_function

from act_engine.attack import Attack, Labels
from act_engine.evaluation.premises import PremiseError, check_batch, check_range
from act_engine.learners import Learner
from act_engine.objectives import Objective
from act_engine.training.awp import WeightPerturbation
from act_engine.training.mixing import Mixing
from act_engine.training.seeds import stream

OBJECTIVE = "objective"
"""Profiler label of everything up to the losses: what is in it but in no pass and not in the attack is the losses'."""


class TrainingStep:
    """Called with a batch, updates every model once; all that a loop of your own needs.

    Every random draw is a function of (seed, steps taken), so a resumed run repeats the step that was lost.

    Args:
        objective: the training method.
        learners: of each model that the objective trains, by its name; all have taken the same number of steps.
        attack: the inner maximisation; None for an objective without one.
        frozen: functions from images to logits, by name, of the models that the objective needs trained already.
        perturbation: adversarial weight perturbation; None: none.
        perturbation_start: steps that are taken before it sets in.
        mixing: mixes the images of every step, and their labels; None: not.
        attack_warmup: steps over which the attack's eps and step size rise linearly, to their whole in the last.
        seed: of every draw.
        rank: of this process; its part of the global batch begins at rank · batch size.
        accumulate: equal parts in which a batch is gone through.
    """

    def __init__(
        self,
        objective: Objective,
        learners: Mapping[str, Learner],
        attack: Attack | None,
        *,
        frozen: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        perturbation: WeightPerturbation | None = None,
        perturbation_start: int = 0,
        mixing: Mixing | None = None,
        attack_warmup: float = 0,
        seed: int = 0,
        rank: int = 0,
        accumulate: int = 1,
    ) -> None:
        self.objective, self.learners, self.attack = objective, dict(learners), attack
        self.perturbation, self.perturbation_start = perturbation, perturbation_start
        self.mixing = mixing
        self.attack_warmup = attack_warmup
        self.seed, self.rank, self.accumulate = seed, rank, accumulate
        self.passes: dict[str, Callable[[Tensor], Tensor]] = {
            name: record_function(f"{name} forward")(learner) for name, learner in self.learners.items()
        }
        self.passes |= {name: record_function(f"{name} forward")(model) for name, model in (frozen or {}).items()}
        self._checked = False

    @property
    def steps_taken(self) -> int:
        """Updates that every model has had."""
        return next(iter(self.learners.values())).steps_taken

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update of every model; returns this process's loss of each, without waiting for the device.

        Args:
            images: [B, C, H, W] on the models' device, float in [0, 1], or uint8 meaning x / 255.
            labels: [B], int64, on that device.

        Raises:
            PremiseError: the first batch's images or labels are not of that form; looking at them waits for the device.
        """
        if not self._checked:
            self._check(images, labels)
            self._checked = True
        torch.manual_seed(stream(self.seed, self.steps_taken, f"models {self.rank}"))
        if self.attack is not None:
            self.attack.generator.manual_seed(stream(self.seed, self.steps_taken, "attack"))
            self.attack.strength = min(1.0, (self.steps_taken + 1) / max(self.attack_warmup, 1))
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, self.steps_taken)
        size = len(labels) // self.accumulate
        parts = []
        for index in range(self.accumulate):
            if self.attack is not None:
                self.attack.position = self.rank * len(labels) + index * size
            part = slice(index * size, (index + 1) * size)
            losses = self._losses(images[part], labels[part])
            with record_function("backwards"):
                for name, learner in self.learners.items():
                    learner.backward(losses[name])
            if self.perturbation is not None:
                self.perturbation.remove()
            parts.append({name: loss.detach() for name, loss in losses.items()})
        with record_function("optimizers"):
            for learner in self.learners.values():
                learner.step()
        return parts[0] if self.accumulate == 1 else {k: sum(p[k] for p in parts) / self.accumulate for k in parts[0]}

    def _check(self, images: Tensor, labels: Tensor) -> None:
        check_batch(images, labels)
        check_range(images)
        for name, learner in self.learners.items():
            dtype = next((p.dtype for p in learner.module.parameters() if p.is_floating_point()), images.dtype)
            if images.is_floating_point() and images.dtype != dtype:
                allowed = f"{dtype}, as the {name} model's weights are, or torch.uint8"
                raise PremiseError(f"images: got {images.dtype}; allowed: {allowed}")

    @record_function(OBJECTIVE)
    def _losses(self, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        if self.perturbation is not None and self.steps_taken >= self.perturbation_start:
            return self.perturbation.losses(self.objective, self.passes, self.attack, images, labels)
        return self.objective.losses(self.passes, self.attack, images, labels)
