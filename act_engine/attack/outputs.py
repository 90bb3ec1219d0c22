"""Which part of a model's output its logits are."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def logits_of(output: Any, images: int) -> Tensor:
    """The logits [images, classes]: `output` itself if it is a tensor, or else its entry or attribute ``logits``.

    So the outputs of Hugging Face's models and the named tuples of torchvision's are taken as they are.

    Raises:
        ValueError: it is neither, or of another shape.
    """
    found = output
    if not isinstance(output, Tensor):
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor) and found.dim() == 2 and len(found) == images:
        return found
    described = f"of shape {list(found.shape)}" if isinstance(found, Tensor) else _described(output)
    raise ValueError(
        f"model: got an output {described} for {images} images; allowed: logits [{images}, classes], or an output that "
        "has them under the name 'logits' (wrap the model in a module that returns its logits)"
    )


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"that is a {type(output).__name__} of {', '.join(map(repr, output)) or 'nothing'}"
    if isinstance(output, (list, tuple)):
        return f"that is a {type(output).__name__} of {len(output)}"
    return f"of class {type(output).__name__}"
