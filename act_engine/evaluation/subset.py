"""A part of a data set, spread evenly over it, the same whoever holds which images."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def chosen(first: int, count: int, wanted: int, total: int) -> Tensor:
    """Mask [count] of the places from `first` on that belong to the `wanted` of `total`, spread evenly over them."""
    places = torch.arange(first, first + count)
    return (places + 1) * wanted // total > places * wanted // total


def spread(
    batches: Iterable[tuple[Tensor, Tensor]], *, first: int, wanted: int, total: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The chosen images of batches that begin at place `first`, in batches of `batch_size` again, the last one shorter.

    Of the chosen ones, ``first * wanted // total`` stand before the first that this yields.
    """
    held: list[tuple[Tensor, Tensor]] = []
    for images, labels in batches:
        mask = chosen(first, len(labels), wanted, total).to(labels.device)
        first += len(labels)
        held.append((images[mask], labels[mask]))
        while sum(len(labels) for _, labels in held) >= batch_size:
            images, labels = (torch.cat(part) for part in zip(*held, strict=True))
            yield images[:batch_size], labels[:batch_size]
            held = [(images[batch_size:], labels[batch_size:])]
    if sum(len(labels) for _, labels in held):
        yield tuple(torch.cat(part) for part in zip(*held, strict=True))
