"""Labels of training images: one class each, or two with their shares, as MixUp and CutMix make them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MixedLabels:
    """Two classes an image: `first` and `second` `[B]` int64, and the `share` `[B]` of the first, 0 to 1."""

    first: Tensor
    second: Tensor
    share: Tensor

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, part: slice) -> MixedLabels:
        return MixedLabels(self.first[part], self.second[part], self.share[part])


Labels = Tensor | MixedLabels
"""Classes [B] int64, or `MixedLabels`."""


def first_class(labels: Labels) -> Tensor:
    """Classes [B]: of mixed labels the first."""
    return labels.first if isinstance(labels, MixedLabels) else labels


def are_plain(labels: Labels, label_smoothing: float) -> bool:
    """Whether each image has one class that is the whole of its label."""
    return not label_smoothing and not isinstance(labels, MixedLabels)


def distribution(labels: Labels, like: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The labels as probabilities u [B, C], as many and of the dtype as the logits `like`.

    (1 − s) · (share · onehot(first) + (1 − share) · onehot(second)) + s / C, s being `label_smoothing`.
    """
    classes = like.shape[1]
    dense = F.one_hot(first_class(labels), classes).to(like.dtype)
    if isinstance(labels, MixedLabels):
        share = labels.share.to(like.dtype).unsqueeze(1)
        dense = share * dense + (1 - share) * F.one_hot(labels.second, classes).to(like.dtype)
    return (1 - label_smoothing) * dense + label_smoothing / classes


def correction(labels: Labels, like: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """onehot(first class) − u, [B, C]: what a loss that knows one class an image lacks.

    The cross-entropy to u is that to the first class plus the sum of this times the logits, for the probabilities'
    normaliser cancels out; and the gradient to the logits is that to the first class plus this.
    """
    return distribution(first_class(labels), like) - distribution(labels, like, label_smoothing)
