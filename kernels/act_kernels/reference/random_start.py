"""Random start of PGD: counter-based noise, and the arithmetic that adds it.

Noise is a function of (key, image, element) alone. Image n's element e, counted in the images' memory order, is made of
word e mod 4 of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) at the counter
(e div 4, n), both as two words of 32 bits, low word first, under the key's two words. Every operation below is exact or
rounded once, so that all backends give the same bits.
"""

import torch
from torch import Tensor

from .pgd_step import per_channel, per_sample

_WORD = 2**32 - 1
# Wichura's PPND7 (Applied Statistics, AS 241): the normal distribution's quantile, to 1e-6. Highest power first.
_CENTRE = (59.109374720, 159.29113202, 50.434271938, 3.3871327179), (67.187563600, 78.757757664, 17.895169469, 1.0)
_TAIL = (0.17023821103, 1.3067284816, 2.7568153900, 1.4234372777), (0.12021132975, 0.73700164250, 1.0)
# Cephes' logf.
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip


def random_start(
    out: Tensor,
    x: Tensor,
    key: Tensor,
    first: int,
    gaussian: bool,
    scale: float | Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
) -> None:
    """Write clamp(x + scale · noise, lower, upper) into `out`, in float32 (float64 for float64 `out`), rounded once.

    noise: uniform in [−1, 1), or N(0, 1) with `gaussian`, of float32, for the images numbered from `first` on under
    `key` (int64 [1]). Layouts, dtypes, uint8 `x`, `lower` and `upper` as in `pgd_step`; `scale` is a number or one
    value a sample [N].
    """
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    scale = per_sample(scale, x, dtype)
    lower, upper = per_channel(lower, x, dtype), per_channel(upper, x, dtype)
    sizes = noise(key, first, len(x), x[0].numel() if len(x) else 0, gaussian)
    clean = x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)
    moved = clean + scale * _in_memory_order(sizes, clean).to(dtype)
    out.copy_(torch.minimum(torch.maximum(moved, lower), upper))


def _in_memory_order(values: Tensor, like: Tensor) -> Tensor:
    """`values` [N, elements] as images of the shape and layout of `like`."""
    if like.is_contiguous():
        return values.reshape(like.shape)
    shape = (like.shape[0], *like.shape[2:], like.shape[1])
    return values.reshape(shape).movedim(-1, 1)


def noise(key: Tensor, first: int, images: int, elements: int, gaussian: bool) -> Tensor:
    """The noise of images `first` to `first + images` [images, elements], float32."""
    image = torch.arange(first, first + images, device=key.device).unsqueeze(1)
    counter = torch.arange((elements + 3) // 4, device=key.device).unsqueeze(0)
    words = torch.stack(torch.broadcast_tensors(*_philox(counter, image, key)), -1).flatten(1)[:, :elements]
    steps = (words >> 8).to(torch.float32)
    if not gaussian:
        return steps * 2.0**-23 - 1
    return _quantile((steps - 2.0**23 + 0.5) * 2.0**-24)


def _philox(counter: Tensor, image: Tensor, key: Tensor) -> tuple[Tensor, ...]:
    """The four words of Philox4x32-10, each below 2^32 in int64."""
    (a, b), (c, d), (low, high) = ((v & _WORD, (v >> 32) & _WORD) for v in (counter, image, key))
    for _ in range(10):
        high_a, low_a = _multiply(a, 0xD2511F53)
        high_c, low_c = _multiply(c, 0xCD9E8D57)
        a, b, c, d = high_c ^ b ^ low, low_c, high_a ^ d ^ high, low_a
        low, high = (low + 0x9E3779B9) & _WORD, (high + 0xBB67AE85) & _WORD
    return a, b, c, d


def _multiply(a: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low word of a · factor; in halves, since int64 does not hold the product of two words of 32 bits."""
    low, high = (a & 0xFFFF) * factor, (a >> 16) * factor
    high += low >> 16
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def _quantile(q: Tensor) -> Tensor:
    """The x with Φ(x) = q + ½, for |q| < ½."""
    inner = 0.180625 - q * q
    centre = q * _polynomial(_CENTRE[0], inner) / _polynomial(_CENTRE[1], inner)
    # In double, and rounded: PyTorch's float32 root on the CPU may be one unit off.
    outer = torch.sqrt(-_log(0.5 - q.abs()).double()).float() - 1.6
    tail = _polynomial(_TAIL[0], outer) / _polynomial(_TAIL[1], outer)
    return torch.where(q.abs() <= 0.425, centre, torch.where(q < 0, -tail, tail))


def _log(v: Tensor) -> Tensor:
    bits = v.view(torch.int32)
    exponent, m = (bits >> 23) - 126, ((bits & 0x7FFFFF) | 0x3F000000).view(torch.float32)
    small = m < 0.70710678
    e = (exponent - small.to(torch.int32)).to(torch.float32)
    m = torch.where(small, m + m, m) - 1
    square = m * m
    y = _polynomial(_LOG, m) * m * square + e * -2.12194440e-4 - 0.5 * square
    return (m + y) + e * 0.693359375


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    result = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result
