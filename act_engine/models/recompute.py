"""Training a model without keeping its activations from the forward to the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CONTAINERS = (nn.Sequential, nn.ModuleList)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that a deep model is a chain of, in its own order, such as ViT's or a ResNet's.

    They are the innermost modules of one class that fill an `nn.Sequential` or `nn.ModuleList` and have layers inside.
    Empty for a model that is not made so.
    """
    blocks: list[nn.Module] = []
    for child in model.children():
        inside = repeated_blocks(child)
        if inside:
            blocks += inside
        elif isinstance(child, CONTAINERS) and _alike(list(child)):
            blocks += list(child)
    return blocks


def _alike(modules: list[nn.Module]) -> bool:
    first = type(modules[0]) if modules else nn.Sequential
    return (
        not issubclass(first, CONTAINERS)
        and all(type(module) is first for module in modules)
        and all(any(True for _ in module.children()) for module in modules)
    )


class Recompute:
    """While `active`, the modules keep their inputs alone, and their backward passes begin with a second forward pass.

    The second pass repeats the first to the bit, dropout included, and leaves BatchNorm's statistics as they were
    (Chen et al. 2016, arXiv 1604.06174). Modules may write into their inputs. Their names and hooks stay.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._forwards = [(module, _recomputed(module)) for module in modules]

    @contextmanager
    def active(self) -> Iterator[None]:
        """The time of a forward pass; its backward pass may come after it."""
        for module, forward in self._forwards:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward


def _recomputed(module: nn.Module) -> Callable[..., Any]:
    plain = module.forward

    def forward(*arguments: Any, **keywords: Any) -> Any:
        return plain(*(a.clone() if isinstance(a, Tensor) else a for a in arguments), **keywords)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), kept_buffers(module)

    def recomputed(*arguments: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*arguments, **keywords)
        # A compiled forward pass repeats no write; in eval mode nothing is drawn, and a CUDA graph could read no state.
        keeps = module.training and not torch.compiler.is_compiling() and any(True for _ in module.buffers())
        if keeps:
            keywords["context_fn"] = contexts
        return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=module.training, **keywords)

    return recomputed


@contextmanager
def kept_buffers(module: nn.Module) -> Iterator[None]:
    """At its end the module's buffers, such as BatchNorm's running statistics, are what they were before."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
