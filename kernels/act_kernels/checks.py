"""Validation shared by the public functions: every error names the argument, what was given and what is allowed."""

import math
import sys

import torch
from torch import Tensor

IMAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LARGEST = torch.finfo(torch.float32).max


def float_tensor(name: str, t: Tensor) -> None:
    if t.dtype not in IMAGE_DTYPES:
        raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {_dtype(t)}")


def same_place(name: str, t: Tensor, like_name: str, like: Tensor) -> None:
    """`t` has the shape and device of `like`."""
    if t.shape != like.shape:
        raise ValueError(f"{name}: expected the shape of {like_name}, {tuple(like.shape)}, got {tuple(t.shape)}")
    same_device_as(name, t, like_name, like)


def same_dtype(name: str, t: Tensor, like_name: str, like: Tensor) -> None:
    if t.dtype != like.dtype:
        raise TypeError(f"{name}: expected the dtype of {like_name}, {_dtype(like)}, got {_dtype(t)}")


def clean_images(x: Tensor, x_adv: Tensor) -> None:
    same_place("x", x, "x_adv", x_adv)
    if x.dtype != torch.uint8:
        same_dtype("x (unless it is uint8)", x, "x_adv", x_adv)


def number_or_tensor(
    name: str, value: float | Tensor, length: int | None, what: str, images: Tensor
) -> tuple[Tensor | None, float]:
    """Split a number or a tensor of `length` values (one a `what`) into the pair the raw ops take."""
    if not isinstance(value, Tensor):
        if not value == value:  # nan; under torch.compile a number may be symbolic, which math.isnan cannot take
            raise ValueError(f"{name}: expected a number, got nan")
        if images.dtype != torch.float64 and LARGEST < abs(value) < math.inf:
            raise ValueError(
                f"{name}: expected a number that float32 holds, at most {LARGEST:.3g} in size, got {value}"
            )
        return None, float(value)
    if value.dim() == 0:
        value = value.expand(1 if length is None else length)
    if value.shape != (length,):
        raise ValueError(f"{name}: expected a number or one value a {what}, ({length},), got {tuple(value.shape)}")
    if value.device != images.device:
        raise ValueError(f"{name}: expected the device of the images, {images.device}, got {value.device}")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    return value.detach().to(dtype).contiguous(), 0.0


def not_negative(name: str, value: float | Tensor) -> None:
    """Numbers are checked here, CPU tensors in the op; on a GPU a check would stop the host."""
    if not isinstance(value, Tensor) and not value >= 0:
        raise ValueError(f"{name}: expected a value >= 0, got {value}")


def choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a value in [{low}, {high}], got {value}")


def finite(name: str, value: float, computed: Tensor) -> None:
    """A finite number in what `computed` is computed in."""
    largest = sys.float_info.max if computed.dtype == torch.float64 else LARGEST
    if not -math.inf < value < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if not -largest <= value <= largest:
        raise ValueError(f"{name}: expected a number that float32 holds, at most {largest:.3g} in size, got {value}")


def temperature(value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"temperature: expected a finite value > 0, got {value}")


def logits_pair(name: str, logits: Tensor, other_name: str, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both as matrices of the wider one's dtype."""
    float_tensor(name, logits)
    float_tensor(other_name, other)
    if logits.dim() != 2 or logits.shape[1] < 1:
        raise ValueError(f"{name}: expected shape [B, C] with at least one class, got {tuple(logits.shape)}")
    same_place(other_name, other, name, logits)
    if other.dtype != logits.dtype:
        wide = torch.promote_types(logits.dtype, other.dtype)
        return logits.to(wide), other.to(wide)
    return logits, other


Labels = Tensor | tuple[Tensor, Tensor, float | Tensor]
"""Class indices [B]; two of them with the first's share, (labels, other_labels, share); or distributions [B, C]."""


def targets(labels: Labels, name: str, logits: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Labels of any kind as the raw ops take them, (labels, other_labels, shares); labels None: shares [B, C]."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if isinstance(labels, (tuple, list)):
        if len(labels) != 3:
            raise ValueError(
                f"labels: expected a pair with a share, (labels, other_labels, share), got {len(labels)} parts"
            )
        first, second, share = labels
        for part in (first, second):
            _class_indices(part, name, logits)
        rows = logits.shape[:1]
        if isinstance(share, Tensor):
            if share.shape not in ((), rows):
                raise ValueError(f"labels: expected a share a row, shape {tuple(rows)}, got {tuple(share.shape)}")
            same_device_as("labels", share, name, logits)
            if share.is_cpu and share.numel() and not bool(((share >= 0) & (share <= 1)).all()):
                raise ValueError("labels: expected shares in [0, 1]")
            shares = share.detach().to(dtype).expand(rows)
        else:
            in_range("labels: share", share, 0, 1)
            shares = torch.full(rows, float(share), dtype=dtype, device=logits.device)
        return first, second, shares
    if isinstance(labels, Tensor) and labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels: expected distributions of {name}'s shape, {tuple(logits.shape)}, got {tuple(labels.shape)}"
            )
        same_device_as("labels", labels, name, logits)
        return None, None, labels.detach().to(dtype)
    _class_indices(labels, name, logits)
    return labels, None, None


def _class_indices(labels: Tensor, name: str, logits: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected int64 class indices, got {type(labels).__name__}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected int64 class indices, got {_dtype(labels)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: expected one label a row, shape ({logits.shape[0]},), got {tuple(labels.shape)}")
    same_device_as("labels", labels, name, logits)


def same_device_as(name: str, t: Tensor, like_name: str, like: Tensor) -> None:
    if t.device != like.device:
        raise ValueError(f"{name}: expected the device of {like_name}, {like.device}, got {t.device}")


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")
