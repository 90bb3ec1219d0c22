"""Clean accuracy, and robust accuracy under the worst of several PGD restarts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView, first_iterate, input_gradient
from act_kernels import attack_grad, pgd_step


@dataclass(frozen=True)
class Accuracy:
    """Counts over one data set; `robust` is None where no attack was run."""

    samples: int
    clean: int
    robust: int | None

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly, in [0, 1]."""
        return self.clean / self.samples

    @property
    def robust_accuracy(self) -> float | None:
        """Share of images classified correctly at every iterate of every restart, and clean, in [0, 1]."""
        return None if self.robust is None else self.robust / self.samples


@dataclass(frozen=True)
class PGDAttack:
    """Untargeted cross-entropy PGD from uniform starts in the ball; eps and step_size in [0, 1] pixel units."""

    eps: float
    step_size: float
    steps: int = 100
    restarts: int = 5
    norm: str = "linf"


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    attack: PGDAttack | None,
    seed: int = 0,
    first: int = 0,
    total: int | None = None,
    sum_over_ranks: Callable[[Sequence[int]], list[int]] = list,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Accuracy:
    """Measure a model over (images [B, C, H, W], labels [B]) batches.

    An image counts as robust only if it is classified correctly when clean and at every iterate of every restart. That
    is at most the customary last-iterate figure, and an image that has failed costs nothing more.

    Args:
        model: images in [0, 1] to logits [B, classes]; measured through an `AttackView`, itself left untouched.
        attack: None measures clean accuracy alone.
        seed: of the random starts, which belong to an image's place in the data set, not to its batch or process.
        first: place of the first image in the data set, for a process that holds a later part of it.
        total: images in the whole data set; None: the batches hold all of it, or its end.
        sum_over_ranks: adds up counts over the processes that measure a part each; entered once, after the last batch.
        on_batch: told the number of images done after each batch.
    """
    view = AttackView(model)
    samples = clean = robust = 0
    position = first
    for images, labels in batches:
        with torch.no_grad():
            survives = view(images).argmax(1) == labels
        samples, clean = samples + len(labels), clean + int(survives.sum())
        if attack is not None:
            for restart in range(attack.restarts):
                generator = torch.Generator(images.device).manual_seed((seed * 1_009 + restart) * 1_000_003)
                place = {"first": position, "total": total}
                start = first_iterate(images, attack.eps, attack.norm, "uniform", generator, **place)
                _drop_fooled(view, images, labels, start, survives, attack)
            robust += int(survives.sum())
        position += len(labels)
        on_batch(len(labels))
    samples, clean, robust = sum_over_ranks([samples, clean, robust])
    if not samples:
        raise ValueError("the evaluation data is empty")
    return Accuracy(samples, clean, robust if attack is not None else None)


def _drop_fooled(
    view: AttackView,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    survives: Tensor,
    attack: PGDAttack,
) -> None:
    """One restart from `start` on the images that survive so far; clears `survives` for those it fools."""
    index = survives.nonzero().squeeze(1)
    x, y, x_adv = images[index], labels[index], start[index]
    for _ in range(attack.steps):
        if not len(index):
            return
        logits, gradient = input_gradient(view, x_adv, lambda logits, y=y: _cross_entropy_grad(logits, y))
        x_adv = pgd_step(x_adv, gradient, x, attack.step_size, attack.eps, norm=attack.norm)
        right = logits.argmax(1) == y
        if not right.all():
            survives[index[~right]] = False
            index, x, y, x_adv = index[right], x[right], y[right], x_adv[right]
    with torch.no_grad():
        right = view(x_adv).argmax(1) == y
    survives[index[~right]] = False


def _cross_entropy_grad(logits: Tensor, labels: Tensor) -> Tensor:
    return attack_grad(logits, logits, labels, kl_weight=0.0, ce_weight=1.0)
