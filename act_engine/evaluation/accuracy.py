"""Counting the images that a model gets right: clean, and under each of several attacks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView
from act_engine.evaluation.attacks import EvaluationAttack, Place


@dataclass(frozen=True)
class Accuracy:
    """Counts over one data set, by class, and by the name of what was measured: ``"clean"`` and the attacks'."""

    images: tuple[int, ...]
    """Images of each class."""
    right: Mapping[str, tuple[int, ...]]
    """Images of each class that the model gets right, clean and under each attack to its end."""
    stages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Images right after each stage of an attack."""
    beaten: Mapping[str, int] = field(default_factory=dict)
    """Images that withstand the attack ``"robust"`` and fall to another: to none of them, if ``"robust"`` is strong."""

    @property
    def samples(self) -> int:
        return sum(self.images)

    @property
    def clean(self) -> int:
        return sum(self.right["clean"])

    @property
    def robust(self) -> int | None:
        """Images that withstand the attack ``"robust"``; None where it was not run."""
        return sum(self.right["robust"]) if "robust" in self.right else None

    @property
    def clean_accuracy(self) -> float:
        """Share of images classified correctly, in [0, 1]."""
        return self.clean / self.samples

    @property
    def robust_accuracy(self) -> float | None:
        """Share of images that are classified correctly clean and withstand the attack, in [0, 1]."""
        return None if self.robust is None else self.robust / self.samples


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    attack: EvaluationAttack | None,
    controls: Mapping[str, EvaluationAttack] | None = None,
    seed: int = 0,
    first: int = 0,
    total: int | None = None,
    sum_over_ranks: Callable[[Sequence[int]], list[int]] = list,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Accuracy:
    """Measure a model over (images [B, C, H, W], labels [B]) batches; every attack starts from those right when clean.

    Args:
        model: images in [0, 1] to logits [B, classes]; measured through an `AttackView`, itself left untouched.
        attack: what robust accuracy is measured with; None measures clean accuracy alone.
        controls: further attacks by name, to compare it with.
        seed: of the random starts, which belong to an image's place in the data set, not to its batch or process.
        first: place of the first image in the data set, for a process that holds a later part of it.
        total: images in the whole data set; None: the batches hold all of it, or its end.
        sum_over_ranks: adds up counts over the processes that measure a part each; entered after the last batch.
        on_batch: told the number of images done after each batch.

    Raises:
        ValueError: there are no images.
    """
    attacks = {**({} if attack is None else {"robust": attack}), **(controls or {})}
    view = AttackView(model)
    counts: _Counts | None = None
    position = first
    for images, labels in batches:
        with torch.no_grad():
            logits = view(images)
        counts = counts or _Counts(logits.shape[1], attacks)
        clean = logits.argmax(1) == labels
        place = Place(position, total, seed)
        counts.add(labels, clean, {name: run(view, images, labels, clean, place) for name, run in attacks.items()})
        position += len(labels)
        on_batch(len(labels))
    classes, holders = sum_over_ranks([0, 0] if counts is None else [counts.classes, 1])
    if not holders:
        raise ValueError("the evaluation data is empty")
    counts = counts or _Counts(classes // holders, attacks)
    counts.values = sum_over_ranks(counts.values)
    return counts.result()


class _Counts:
    """Whole numbers in one list, so that ranks add them up in one collective."""

    def __init__(self, classes: int, attacks: Mapping[str, EvaluationAttack]) -> None:
        self.classes = classes
        self._stages = {name: attack.stages for name, attack in attacks.items()}
        self._others = [name for name in attacks if name != "robust"] if "robust" in attacks else []
        width = classes * (2 + len(attacks)) + sum(self._stages.values()) + len(self._others)
        self.values = [0] * width

    def add(self, labels: Tensor, clean: Tensor, masks: Mapping[str, Tensor]) -> None:
        """Count a batch: its labels [B], which are right clean [B] and after each attack's stages [stages, B]."""
        rows = [torch.ones_like(clean), clean, *(mask[-1] for mask in masks.values())]
        parts = [torch.bincount(labels[row], minlength=self.classes) for row in rows]
        parts += [mask.sum(1) for mask in masks.values()]
        parts += [(masks["robust"][-1] & ~masks[name][-1]).sum()[None] for name in self._others]
        self.values = [a + b for a, b in zip(self.values, torch.cat(parts).tolist(), strict=True)]

    def result(self) -> Accuracy:
        values = iter(self.values)

        def take(count: int) -> tuple[int, ...]:
            return tuple(next(values) for _ in range(count))

        images = take(self.classes)
        right = {name: take(self.classes) for name in ("clean", *self._stages)}
        stages = {name: take(count) for name, count in self._stages.items()}
        return Accuracy(images, right, stages, {name: next(values) for name in self._others})
