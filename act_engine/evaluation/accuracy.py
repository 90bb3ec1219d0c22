"""Counting the images that a model gets right: clean, and under each of several attacks."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView
from act_engine.evaluation.attacks import EvaluationAttack, Place
from act_engine.evaluation.premises import (
    ATTACKED,
    BEHAVIOUR,
    PremiseWarning,
    Record,
    WatchedView,
    behaviour,
    check_batch,
    check_model,
    check_values,
    is_right,
    once_each,
    rounding,
    sentences,
)


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
    warnings: tuple[str, ...] = ()
    """Why the figures may not mean what they seem to mean, each a sentence; those of `premises`, and the attacks'."""

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


def _warn(text: str) -> None:
    warnings.warn(text, PremiseWarning, stacklevel=4)  # at the caller of `evaluate`


@torch.inference_mode(False)  # in which there are no gradients
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
    together: Callable[[], AbstractContextManager] = nullcontext,
    on_batch: Callable[[int], None] = lambda images: None,
    on_call: Callable[[], object] = lambda: None,
    warn: Callable[[str], None] = _warn,
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
        together: holds the first batch's checks, so that all processes hear of an error in one of them.
        on_batch: told the number of images done after each batch.
        on_call: called at each of the model's answers under attack.
        warn: told each of the result's warnings at the end; if not given, each is a `PremiseWarning` of Python's.

    Raises:
        PremiseError: images, labels or the model's outputs are not of the form above.
        ValueError: there are no images, or too few classes for an attack.
    """
    attacks = {**({} if attack is None else {"robust": attack}), **(controls or {})}
    view = AttackView(model)
    counts: _Counts | None = None
    said: list[str] = []
    position = first
    checked = _checked(model, view, batches, first)
    with view.ready():
        with together():  # what is wrong with the first batch is wrong with all of them
            batch = next(checked, None)
        while batch is not None:
            images, labels, logits, dark, found = batch
            if counts is None:
                counts = _Counts(logits.shape[1], attacks)
                counts.begin(found)
            clean = is_right(logits, labels)
            place, record = Place(position, total, seed), Record()
            watched = WatchedView(view, record, on_call)
            masks = {name: run(watched, images, labels, clean, place) for name, run in attacks.items()}
            counts.add(labels, clean, masks, dark, record)
            said = once_each([*said, *record.warnings])
            position += len(labels)
            on_batch(len(labels))
            batch = next(checked, None)
    classes, holders = sum_over_ranks([0, 0] if counts is None else [counts.classes, 1])
    if not holders:
        raise ValueError("the evaluation data is empty")
    counts = counts or _Counts(classes // holders, attacks)
    counts.values = sum_over_ranks(counts.values)
    measured = counts.result(said)
    for text in measured.warnings:
        warn(text)
    return measured


def _checked(
    model: nn.Module, view: AttackView, batches: Iterable[tuple[Tensor, Tensor]], position: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, int, list[int]]]:
    """The batches that hold images, with their clean logits, what is dark of them, and the model's `behaviour`."""
    found: list[int] = []
    for given in batches:
        images, labels = check_batch(*given)
        if not len(labels):
            continue
        if images.is_inference():
            images, labels = images.clone(), labels.clone()
        dtype = None if found else check_model(model, images)
        with torch.no_grad():
            logits = view(images)
        dark = check_values(images, labels, logits, position)
        if dtype is not None:
            found = behaviour(view, images, logits, rounding(dtype, images.device))
        yield images, labels, logits, dark, found
        position += len(labels)


class _Counts:
    """Whole numbers in one list, so that ranks add them up in one collective."""

    def __init__(self, classes: int, attacks: Mapping[str, EvaluationAttack]) -> None:
        self.classes = classes
        self._stages = {name: attack.stages for name, attack in attacks.items()}
        self._others = [name for name in attacks if name != "robust"] if "robust" in attacks else []
        width = classes * (2 + len(attacks)) + sum(self._stages.values()) + len(self._others)
        self.values = [0] * (len(BEHAVIOUR) + 1 + len(ATTACKED) + width)

    def begin(self, behaviour: Sequence[int]) -> None:
        """Note what was found out about the model beforehand."""
        self.values[: len(BEHAVIOUR)] = behaviour

    def add(self, labels: Tensor, clean: Tensor, masks: Mapping[str, Tensor], dark: int, record: Record) -> None:
        """Count a batch: its labels [B], which are right clean [B] and after each attack's stages [stages, B]."""
        rows = [torch.ones_like(clean), clean, *(mask[-1] for mask in masks.values())]
        parts = [torch.as_tensor([count], device=labels.device) for count in record.counts()]
        parts += [torch.bincount(labels[row], minlength=self.classes) for row in rows]
        parts += [mask.sum(1) for mask in masks.values()]
        parts += [(masks["robust"][-1] & ~masks[name][-1]).sum()[None] for name in self._others]
        batch = [0] * len(BEHAVIOUR) + [dark, *torch.cat(parts).tolist()]
        self.values = [a + b for a, b in zip(self.values, batch, strict=True)]

    def result(self, said: Sequence[str]) -> Accuracy:
        values = iter(self.values)

        def take(count: int) -> tuple[int, ...]:
            return tuple(next(values) for _ in range(count))

        premises = {name: next(values) for name in (*BEHAVIOUR, "dark", *ATTACKED)}
        images = take(self.classes)
        right = {name: take(self.classes) for name in ("clean", *self._stages)}
        stages = {name: take(count) for name, count in self._stages.items()}
        beaten = {name: next(values) for name in self._others}
        return Accuracy(images, right, stages, beaten, (*sentences(premises, sum(images)), *said))
