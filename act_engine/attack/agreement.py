"""Whether two passes gave the same logits, up to the rounding of the precision that they ran in."""

import torch
from torch import Tensor, nn

UNITS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""The largest relative error of one rounding."""
INNER_UNITS = {"tf32": 2.0**-11, "bf16": 2.0**-8}
"""That of the inputs of float32 products where PyTorch is told to take them in lower precision."""
SPREAD = 4
"""Two draws of the same rounding errors: the largest of ten or more of one is over four times the other's in less than
one case in a thousand."""


def unit_roundoff(model: nn.Module, images: Tensor, autocast: torch.dtype | None) -> float:
    """That of the coarsest precision that `model` computes `images` [B, C, H, W] in."""
    tensors = (*model.parameters(), *model.buffers(), images)
    dtypes = {tensor.dtype for tensor in tensors if tensor.dtype in UNITS} | ({autocast} & set(UNITS))
    unit = max(UNITS[dtype] for dtype in dtypes)
    if torch.float32 in dtypes:
        backends = torch.backends
        products = (
            (backends.cudnn.conv, backends.cuda.matmul)
            if images.is_cuda
            else (backends.mkldnn.conv, backends.mkldnn.matmul)
        )
        unit = max(unit, *(INNER_UNITS.get(product.fp32_precision, 0.0) for product in products))
    return unit


def moved(images: Tensor, unit: float) -> Tensor:
    """The images with each pixel up or down by the square root of the unit roundoff, relative to itself."""
    draws = torch.Generator(images.device).manual_seed(0)
    up = torch.randint(2, images.shape, generator=draws, device=images.device, dtype=torch.int8)
    return torch.where(up == 1, images * (1 + unit**0.5), images * (1 - unit**0.5))


def disagreement(found: Tensor, expected: Tensor, moved: Tensor, unit: float) -> str | None:
    """How `found` [B, classes] differs from `expected` beyond rounding; None where it does not.

    The bound leaves half of the digits to the network's own amplification of rounding errors: the square root of the
    unit roundoff times the largest logit. Where that is not enough, the model itself tells: `moved` are its logits in
    the precision in question at images whose pixels are moved by as much, and `SPREAD` times their distance is added.
    Logits that are not finite must be equal; where only `moved` is not, the precision is at fault, and nothing is said.
    """
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} where the model's is {tuple(expected.shape)}"
    found, expected, moved = found.double(), expected.double(), moved.double()
    finite = expected.isfinite()
    judged = moved.isfinite() if moved.shape == expected.shape else torch.ones_like(finite)
    odd = ~finite & judged
    if not torch.isclose(found[odd], expected[odd], equal_nan=True).all():
        return "other values that are not finite"
    both = finite & judged
    if not both.any():
        return None
    largest = expected[both].abs().max().item()
    own = (moved - expected)[both].abs().max().item() if moved.shape == expected.shape else 0.0
    bound = SPREAD * own + unit**0.5 * largest
    error = (found - expected)[both].abs().max().item()
    if error <= bound:  # False for NaN
        return None
    return f"logits off by {error:.2g}, where the largest is {largest:.2g} and rounding explains {bound:.2g}"
