"""What an evaluation does to images: white-box PGD, random noise as a control, and transfer from another model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from act_engine.attack import first_iterate, input_gradient
from act_engine.evaluation.losses import check_loss, logit_gradient, without
from act_engine.evaluation.premises import WatchedView, is_right
from act_kernels import pgd_step

NORMS = ("linf", "l2")
NOISE_STREAM = 500  # random streams of the control, away from those of the restarts


@dataclass(frozen=True)
class Place:
    """Where a batch stands in its data set, so that its random starts depend on nothing else."""

    first: int
    total: int | None
    seed: int

    def start(self, x: Tensor, eps: float, norm: str, stream: int) -> Tensor:
        """Uniform starts in the ball around `x`; another `stream` gives others."""
        generator = torch.Generator(x.device).manual_seed((self.seed * 1_009 + stream) * 1_000_003)
        return first_iterate(x, eps, norm, "uniform", generator, first=self.first)


class EvaluationAttack(Protocol):
    """An attack that says which images withstand it."""

    stages: int
    """Rows of what a call returns."""

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        """Masks [stages, B] of the images still right after each stage, out of those that `survives` [B] marks."""
        ...


@dataclass(frozen=True)
class PGDAttack:
    """PGD from uniform starts in the ball; eps and step_size in [0, 1] pixel units; a stage is a restart.

    An image withstands it only if the model is right at every iterate of every restart. That is at most the customary
    last-iterate figure, and an image that has failed costs nothing more.
    """

    eps: float
    step_size: float
    steps: int = 100
    restarts: int = 5
    norm: str = "linf"
    loss: str = "ce"
    """``"ce"``, ``"margin"`` or ``"dlr"``: see `logit_gradient`."""
    targets: int = 0
    """0: untargeted; else each restart goes towards each of an image's so many most likely wrong classes in turn."""

    def __post_init__(self) -> None:
        _check_ball(self.eps, self.norm)
        check_loss(self.loss)
        _check(0 <= self.step_size < math.inf, "step_size", self.step_size, "0 or more, in [0, 1] pixel units")
        _check(self.steps >= 1, "steps", self.steps, "1 or more")
        _check(self.restarts >= 1, "restarts", self.restarts, "1 or more")
        _check(self.targets >= 0, "targets", self.targets, "0 or more")

    @property
    def stages(self) -> int:
        return self.restarts

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        survives = survives.clone()
        aims: list[Tensor | None] = [None]
        if self.targets:
            with torch.no_grad():
                logits = view(x)
            classes = logits.shape[1]
            _check(self.targets < classes, "targets", self.targets, f"0 to {classes - 1}, with {classes} classes")
            aims = list(without(logits, y).topk(self.targets).indices.unbind(1))
        stages = []
        for restart in range(self.restarts):
            start = place.start(x, self.eps, self.norm, restart)
            for aim in aims:
                self._drop_fooled(view, x, y, aim, start, survives)
            stages.append(survives.clone())
        return torch.stack(stages)

    def _drop_fooled(
        self, view: WatchedView, x: Tensor, y: Tensor, aim: Tensor | None, start: Tensor, survives: Tensor
    ) -> None:
        """One run from `start` on the images that survive so far; clears `survives` for those that it fools."""
        index = survives.nonzero().squeeze(1)
        x, y, x_adv = x[index], y[index], start[index]
        aim = None if aim is None else aim[index]
        for _ in range(self.steps):
            if not len(index):
                return
            logits, gradient = input_gradient(view, x_adv, logit_gradient(self.loss, y, aim))
            x_adv = pgd_step(x_adv, gradient, x, self.step_size, self.eps, norm=self.norm)
            right = is_right(logits, y)
            if not right.all():
                survives[index[~right]] = False
                index, x, y, x_adv = index[right], x[right], y[right], x_adv[right]
                aim = None if aim is None else aim[right]
        _drop_wrong(view, x_adv, y, index, survives)

    def perturb(self, view: WatchedView, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """The last iterate of one untargeted run from `start`, for every image."""
        x_adv = start
        for _ in range(self.steps):
            _, gradient = input_gradient(view, x_adv, logit_gradient(self.loss, y))
            x_adv = pgd_step(x_adv, gradient, x, self.step_size, self.eps, norm=self.norm)
        return x_adv


@dataclass(frozen=True)
class RandomNoise:
    """The control: so many uniform draws in the ball and no gradient."""

    eps: float
    norm: str = "linf"
    draws: int = 10
    stream: int = NOISE_STREAM
    """Random stream of the first draw; 0 gives the starts of PGD's first restart."""

    stages = 1

    def __post_init__(self) -> None:
        _check_ball(self.eps, self.norm)
        _check(self.draws >= 1, "draws", self.draws, "1 or more")

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        survives = survives.clone()
        for draw in range(self.draws):
            index = survives.nonzero().squeeze(1)
            noisy = place.start(x, self.eps, self.norm, self.stream + draw)[index]
            _drop_wrong(view, noisy, y[index], index, survives)
        return survives[None]


@dataclass(frozen=True)
class Transfer:
    """A black-box attack: the last iterates of untargeted PGD on another model, from each restart."""

    source: Callable[[Tensor], Tensor]
    pgd: PGDAttack

    stages = 1

    def __call__(self, view: WatchedView, x: Tensor, y: Tensor, survives: Tensor, place: Place) -> Tensor:
        survives = survives.clone()
        source = WatchedView(self.source, on_call=view.on_call)
        for restart in range(self.pgd.restarts):
            index = survives.nonzero().squeeze(1)
            if len(index):
                start = place.start(x, self.pgd.eps, self.pgd.norm, restart)[index]
                x_adv = self.pgd.perturb(source, x[index], y[index], start)
                _drop_wrong(view, x_adv, y[index], index, survives)
        view.record.add(source.record)
        return survives[None]


def _drop_wrong(view: WatchedView, x_adv: Tensor, y: Tensor, index: Tensor, survives: Tensor) -> None:
    """Clear `survives` at those of `index` whose image the model gets wrong."""
    if len(index):
        with torch.no_grad():
            survives[index[~is_right(view(x_adv), y)]] = False


def _check_ball(eps: float, norm: str) -> None:
    _check(0 <= eps < math.inf, "eps", eps, "0 or more, in [0, 1] pixel units")
    _check(norm in NORMS, "norm", repr(norm), " or ".join(map(repr, NORMS)))


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name}: got {value}; allowed: {allowed}")
