"""Layers shared by the architectures, and what stands before and behind a model that speaks another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BELOW = 1e4
"""How far below its lowest logit `Among` puts the classes that are left out: their probability is 0 in float32, and
attacks that compare classes meet no infinity."""


class Normalize(nn.Module):
    """(x - mean) / std per channel, as a first layer; the constants move with the model, outside its state dict."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"model.std: got {list(std)}; allowed: {len(mean)} positive values, one per channel")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Logits(nn.Module):
    """The logits in what a model returns.

    Args:
        field: where they are: the index in a tuple or list, the key of a mapping, or an attribute; None: alone.
        kind: ``"logits"`` (log-probabilities are logits too), or ``"probabilities"``, whose logarithm is taken.
    """

    def __init__(self, field: str | None = None, kind: str = "logits") -> None:
        super().__init__()
        self.field, self.kind = field, kind

    def forward(self, output: Any) -> Tensor:
        if self.field is not None:
            output = self._pick(output)
        if self.kind != "probabilities":
            return output
        probabilities = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def _pick(self, output: Any) -> Any:
        try:
            if isinstance(output, Mapping):
                return output[self.field]
            if isinstance(output, Tensor):
                raise TypeError("a tensor has no fields")
            if self.field.removeprefix("-").isdigit():
                return output[int(self.field)]
            return getattr(output, self.field)
        except (LookupError, AttributeError, TypeError) as error:
            allowed = "null" if isinstance(output, Tensor) else fields(output)
            raise ValueError(f"model.output_field: got {self.field!r}; allowed: {allowed}") from error

    def extra_repr(self) -> str:
        return f"field={self.field!r}, kind={self.kind!r}"


class Among(nn.Module):
    """A model that chooses among some of its classes alone: the others' logits lie far below every one of an image's.

    Args:
        model: images to logits [B, classes].
        chosen: the classes that it chooses among.
    """

    def __init__(self, model: nn.Module, chosen: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("chosen", torch.tensor(chosen), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        below = (logits.amin(1, keepdim=True).detach() - BELOW).expand_as(logits)
        chosen = self.chosen.to(logits.device)
        return below.index_copy(1, chosen, logits.index_select(1, chosen))


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of [B, C, H, W], at every place by itself."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        last = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


class SqueezeExcitation(nn.Module):
    """Every channel scaled by a number in (0, 1) that follows from the means of all of them (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.fc2(self.relu(self.fc1(self.pool(x)))))


def fields(output: Any) -> str:
    """What a model returns, by the names that `Logits` knows them by."""
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        items = ((key, value) for key, value in getattr(output, "__dict__", {}).items() if not key.startswith("_"))
    return ", ".join(f"{key} {list(value.shape) if isinstance(value, Tensor) else ''}".rstrip() for key, value in items)
