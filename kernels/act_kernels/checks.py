"""Validation shared by the public functions: every error names the argument, what was given and what is allowed."""

import math

import torch
from torch import Tensor

IMAGE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def float_tensor(name: str, t: Tensor) -> None:
    if t.dtype not in IMAGE_DTYPES:
        raise TypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {_dtype(t)}")


def same_place(name: str, t: Tensor, like_name: str, like: Tensor) -> None:
    """`t` has the shape and device of `like`."""
    if t.shape != like.shape:
        raise ValueError(f"{name}: expected the shape of {like_name}, {tuple(like.shape)}, got {tuple(t.shape)}")
    if t.device != like.device:
        raise ValueError(f"{name}: expected the device of {like_name}, {like.device}, got {t.device}")


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
        return None, float(value)
    if value.dim() == 0:
        value = value.expand(length or 1)
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


def finite(name: str, value: float) -> None:
    if not -math.inf < value < math.inf:
        raise ValueError(f"{name}: expected a finite number, got {value}")


def temperature(value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"temperature: expected a finite value > 0, got {value}")


def logits_pair(name: str, logits: Tensor, other_name: str, other: Tensor, labels: Tensor) -> None:
    float_tensor(name, logits)
    if logits.dim() != 2 or logits.shape[1] < 1:
        raise ValueError(f"{name}: expected shape [B, C] with at least one class, got {tuple(logits.shape)}")
    same_place(other_name, other, name, logits)
    same_dtype(other_name, other, name, logits)
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: expected int64 class indices, got {_dtype(labels)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: expected one label a row, shape ({logits.shape[0]},), got {tuple(labels.shape)}")
    if labels.device != logits.device:
        raise ValueError(f"labels: expected the device of {name}, {logits.device}, got {labels.device}")


def _dtype(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")
