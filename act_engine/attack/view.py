"""How an attack sees a model: in eval mode, frozen, and as cheap as its input gradient can be had."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from act_engine.attack.folding import PRODUCERS, fold_into, foldable_pairs
from act_engine.attack.frozen import frozen_eval
from act_engine.attack.pixels import unit_range
from act_engine.models.side_by_side import lay_side_by_side

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LiveView:
    """The model itself, frozen and in eval mode for the time of an attack: for weights that cannot be copied.

    Args:
        model: the module whose flags are set and put back.
        forward: images [B, C, H, W] to logits [B, classes] through it.
        whole: entered for that time, for a model whose parameters are not always all there.
        dtype: what `forward` computes in, where that is less than the weights' own.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        whole: Callable[[], AbstractContextManager] = nullcontext,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.forward, self.whole, self.dtype = model, forward, whole, dtype

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The time in which the view may be called: the model's flags are restored at its end, whatever happens."""
        with self.whole(), frozen_eval(self.model):
            yield


class AttackView:
    """A frozen eval-mode copy of `model` for attacks and evaluations; `refresh` brings it up to the live weights.

    It computes the model's eval-mode function, with four speed-ups, each of which can be switched off: BatchNorm folded
    into the layer before it, the channels_last layout, reduced precision with the weights of convolutions and linear
    layers stored in it (so that nothing is cast in the loop), and torch.compile. What cannot be folded runs as it is;
    `why_not_folded` says why where the whole model could not be looked into. On a CPU with AMX, small images go through
    bfloat16 convolutions side by side (`SideBySideConv2d`).

    Args:
        model: images [B, C, H, W] in [0, 1] to logits [B, classes]. It is read at construction and by `refresh`, and
            never written.
        precision: ``"float32"`` (the weights' own dtype), ``"bfloat16"`` or ``"float16"`` (autocast).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: str = "float32",
        fold: bool = True,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        self.source = model
        self.module = lay_side_by_side(copy.deepcopy(model)).eval().requires_grad_(False)
        self.dtype = AUTOCAST[precision]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.why_not_folded: str | None = None
        pairs = self._pairs() if fold else []
        self._fold(pairs)
        if channels_last:
            self.module.to(memory_format=torch.channels_last)
        if self.dtype is not None:
            for layer in self.module.modules():
                if type(layer) in PRODUCERS:
                    layer.to(self.dtype)
        self.folded = pairs
        self._copies = self._plan_copies()
        self.refresh()
        self._forward = torch.compile(self.module) if compile else self.module

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes], float32 or wider, for images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255."""
        images = unit_range(images)
        if images.dim() == 4:
            images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            logits = self._forward(images)
        return logits if logits.dtype == torch.float64 else logits.float()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The time in which the view may be called: it is refreshed at its beginning, and the model is not touched."""
        self.refresh()
        yield

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's present weights and BatchNorm statistics, in place."""
        targets = [getattr(module, name) for module, _, name in self._copies]
        sources = [getattr(module, name) for _, module, name in self._copies]
        if targets:
            torch._foreach_copy_(targets, sources)
        for layer, norm in self.folded:
            target = self.module.get_submodule(layer)
            fold_into(self.source.get_submodule(layer), self.source.get_submodule(norm), target.weight, target.bias)

    def _pairs(self) -> list[tuple[str, str]]:
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.module.modules()):
            return []
        try:
            return foldable_pairs(self.module)
        except Exception as error:  # a forward may do anything with a symbolic value; unfolded is slower, not wrong
            self.why_not_folded = f"{type(error).__name__}: {error}"
            return []

    def _fold(self, pairs: list[tuple[str, str]]) -> None:
        for layer_name, norm_name in pairs:
            layer = self.module.get_submodule(layer_name)
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]), requires_grad=False)
            self.module.set_submodule(norm_name, nn.Identity())

    def _plan_copies(self) -> list[tuple[nn.Module, nn.Module, str]]:
        """(module of the view, module of the model, name) of every tensor that is taken over as it is."""
        folded = {layer for layer, _ in self.folded}
        plan = []
        for path, module in self.module.named_modules():
            if path not in folded:
                for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                    if tensor is not None:
                        plan.append((module, self.source.get_submodule(path), name))
        return plan
