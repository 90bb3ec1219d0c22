"""How an attack sees a model: in eval mode, frozen, and as cheap as its input gradient can be had."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import is_

import torch
from torch import Tensor, nn

from act_engine.attack.agreement import disagreement, moved, unit_roundoff
from act_engine.attack.contents import Contents, unwrapped
from act_engine.attack.folding import PRODUCERS, Folded, OtherAxis, fold_into, foldable_pairs
from act_engine.attack.frozen import frozen_model, untouched, version
from act_engine.attack.outputs import logits_of
from act_engine.attack.pixels import Inputs, unit_range
from act_engine.models.recompute import Recompute, repeated_blocks
from act_engine.models.side_by_side import lay_side_by_side

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPARED = 64
"""Images of the first batch that are compared; all of them where these differ, for models that look at the batch."""
COPY_EVERY = 10
"""A model that is another at more than one of so many refreshes, for some time, is not copied again and again."""
PATIENCE = 5
"""New copies beyond that rate."""


class LiveView:
    """The model itself, frozen and in eval mode for the time of an attack: for weights that cannot be copied.

    In train mode instead, BatchNorm normalises by the batch at hand; its running statistics are put back.

    Args:
        model: the module whose flags, buffers and attributes are put back.
        forward: images [B, C, H, W] to logits [B, classes] through it.
        whole: entered for that time, for a model whose parameters are not always all there.
        dtype: what `forward` computes in, where that is less than the weights' own.
        train: have the model in train mode.
    """

    recordable = False
    generation = 0

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Tensor], Tensor],
        whole: Callable[[], AbstractContextManager] = nullcontext,
        dtype: torch.dtype | None = None,
        train: bool = False,
    ) -> None:
        self.model, self.forward, self.whole, self.dtype, self.train = model, forward, whole, dtype, train

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The time in which the view may be called: the model is restored at its end, whatever happens."""
        with self.whole(), untouched(self.model), frozen_model(self.model, self.train):
            yield


class AttackView:
    """A frozen eval-mode copy of `model` for attacks and evaluations, which follows the live model.

    It computes the model's eval-mode function, with four speed-ups, each of which can be switched off: BatchNorm folded
    into the layer before it, the channels_last layout, reduced precision with the weights of convolutions and linear
    layers stored in it (so that nothing is cast in the loop), and torch.compile. What cannot be folded runs as it is;
    `why_not_folded` says why where the whole model could not be looked into. On a CPU with AMX, small images go through
    bfloat16 convolutions side by side (`SideBySideConv2d`).

    The first batch is compared with the model, to rounding (`disagreement`). Where they differ, the copy keeps the
    images' own layout (`why_not_channels_last`), which a forward may need that takes a `Tensor.view`. Where they still
    differ, where the model cannot be copied, and where it becomes another at each step, every call goes through the
    model itself instead, which is slower: a warning says so once, and `why_live` keeps the reason.

    A call outside `ready` first takes over what has changed in the model: weights (written to in place, as optimizers
    do), statistics, attributes, submodules. `ready` takes over everything at its beginning, writes through ``.data``
    too, and nothing within: for loops.

    Args:
        model: images [B, C, H, W] in [0, 1] to logits [B, classes], or an output that has ``logits``. It is read, and
            never written. Of DistributedDataParallel, DataParallel and torch.compile the module inside is taken.
        precision: ``"float32"`` (the weights' own dtype), ``"bfloat16"`` or ``"float16"`` (autocast).
        recompute: keep the input of each block alone for the backward pass, and compute the rest again.

    Raises:
        ValueError: in a call, if the output of the model has no logits.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        precision: str = "float32",
        fold: bool = True,
        channels_last: bool = True,
        compile: bool = False,
        recompute: bool = False,
    ) -> None:
        self.source = unwrapped(model)
        self.dtype = AUTOCAST[precision]
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._fold, self._compile, self._recompute = fold, compile, recompute
        self._live = LiveView(self.source, self._live_pass)
        self.module: nn.Module | None = None
        self.why_not_channels_last: str | None = None
        self.why_live: str | None = None
        self.generation = 0
        """Rises with each new copy, whose tensors lie elsewhere."""
        self._unfoldable: set[str] = set()  # norms, by what a batch has shown
        self._debt = 0  # of refreshes without a new copy
        self._held = False
        self._build()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes], float32 or wider, for images [B, C, H, W], float in [0, 1] or uint8 meaning x / 255."""
        if not self._held:
            self._follow()
        if self.why_live is not None:
            with self._live.ready():
                return self._live(images)
        if not self._compared and len(images):
            return self._first(images)
        return self._logits(self._copy_pass, self._inputs(images), self.dtype)

    @property
    def recordable(self) -> bool:
        """Whether its passes can go into a CUDA graph: they run through the copy."""
        return self.why_live is None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The time in which the view may be called: it is refreshed at its beginning, and the model is not touched."""
        self.refresh()
        held, self._held = self._held, True
        try:
            with self._live.ready() if self.why_live is not None else nullcontext():
                yield
        finally:
            self._held = held

    def refresh(self) -> None:
        """Take over the model as it is: weights and statistics in place, and all else by a new copy if it changed."""
        if self.why_live is None and not self._renew():
            self._take_over()

    def _follow(self) -> None:
        """`refresh`, without the copies where nothing was written to since the last one."""
        if self.why_live is None and not self._renew():
            tensors = self._contents.tensors()
            same = all(map(is_, tensors, self._taken[0]))
            if not (same and [version(tensor) for tensor in tensors] == self._taken[1]):
                self._take_over()

    def _renew(self) -> bool:
        """Copy the model anew if more than the values of its tensors has changed; returns whether that was done."""
        change = self._contents.change()
        if change is None:
            self._debt = max(self._debt - 1, 0)
            return False
        self._debt += COPY_EVERY
        if self._debt > PATIENCE * COPY_EVERY:
            self._go_live(f"it changes from step to step ({change})")
        else:
            self._build()
        return True

    def _build(self) -> None:
        self._compared, self._inputs = False, Inputs(self.memory_format)
        self.generation += 1
        self.why_not_folded: str | None = None
        self.folded: list[tuple[str, str]] = []
        try:
            self._contents = Contents(self.source)
            with torch.inference_mode(False):
                module, copies = self._contents.copy(self.source)
                self.module = lay_side_by_side(module).eval().requires_grad_(False)
        except Exception as error:  # a part may refuse to be copied in any way; the model itself serves
            self._go_live(f"it cannot be copied ({type(error).__name__}: {error})")
            return
        origins = {id(copies[id(part)]): part for part in self._contents.modules}
        pairs = self._pairs() if self._fold else []
        replaced = [self.module.get_submodule(name) for pair in pairs for name in pair]
        apart = {id(tensor) for part in replaced for tensor in (*part.parameters(), *part.buffers())}
        self._folds = []  # layer of the view, and of the model layer and norm
        for layer_name, norm_name in pairs:
            layer, norm = self.module.get_submodule(layer_name), self.module.get_submodule(norm_name)
            if layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0]), requires_grad=False)
            self.module.set_submodule(norm_name, Folded(norm_name, layer))
            self._folds.append((layer, origins[id(layer)], origins[id(norm)]))
        self.folded = pairs
        if self.memory_format is torch.channels_last:
            for tensor in (*self.module.parameters(), *self.module.buffers()):
                if tensor.dim() == 4:
                    # `contiguous` leaves the strides of one grey channel, by which convolutions choose their layout.
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)
        if self.dtype is not None:
            for layer in self.module.modules():
                if type(layer) in PRODUCERS:
                    layer.to(self.dtype)
        self._targets, self._read = [], []  # tensors of the view, and the slots that they are taken over from
        for index, slot in enumerate(self._contents.slots):
            target = copies[id(slot.tensor)]
            if id(target) not in apart:
                self._targets.append(target)
                self._read.append(index)
        self._own = Contents(self.module)
        self._take_over()
        self._recomputed = Recompute(repeated_blocks(self.module) if self._recompute else [])
        self._copy = torch.compile(self.module) if self._compile else self.module

    @torch.no_grad()
    def _take_over(self) -> None:
        self._own.restore()  # what its passes kept, such as a cache of something made of the weights
        tensors = self._contents.tensors()
        if self._targets:
            torch._foreach_copy_(self._targets, [tensors[index] for index in self._read])
        for layer, origin, norm in self._folds:
            fold_into(origin, norm, layer.weight, layer.bias)
        self._taken = tensors, [version(tensor) for tensor in tensors]

    def _pairs(self) -> list[tuple[str, str]]:
        if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.module.modules()):
            return []
        try:
            with untouched(self.source), untouched(self.module):  # symbolic values may be kept as attributes
                pairs = foldable_pairs(self.module)
        except Exception as error:  # a forward may do anything with a symbolic value; unfolded is slower, not wrong
            self.why_not_folded = f"{type(error).__name__}: {error}"
            return []
        return [pair for pair in pairs if pair[1] not in self._unfoldable]

    def _first(self, images: Tensor) -> Tensor:
        """The first pass, compared with the model's; from here on `_compared`, or live."""
        batch = self._inputs(images)
        random = _random_state(batch)
        logits: Tensor | None = None
        failure: str | None = None
        other_axis: str | None = None
        try:
            # In train mode, so that a copy that still reaches into the model by one of its functions shows it.
            with untouched(self.source), _in_train_mode(self.source):
                tensors = self._contents.tensors()
                logits = self._logits(self._copy_pass, batch, self.dtype)
                if self._contents.change() or not all(map(is_, tensors, self._contents.tensors())):
                    failure = "a function in it sets attributes of the model that was copied"
        except OtherAxis as error:
            other_axis = error.norm
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if other_axis is not None:
            self._unfoldable.add(other_axis)
            self._build()
        else:
            difference = self._difference(logits, images.detach(), random) or failure  # or raises what the model raises
            if difference is None:
                self._compared = True
                self._inputs.seen(batch)
                return logits
            if self.memory_format is torch.channels_last:
                self.memory_format, self.why_not_channels_last = torch.contiguous_format, difference
                self._build()
            else:
                self._go_live(f"its copy for attacks is not the same model ({difference})")
        _set_random_state(batch, random)  # the pass is made again
        return self(images)

    @torch.no_grad()
    def _difference(self, logits: Tensor | None, images: Tensor, random: list[Tensor]) -> str | None:
        """How the view's first logits, if it gave any, differ beyond rounding from the model's on the same images."""
        images = unit_range(images)
        unit, own = (unit_roundoff(self.source, images, dtype) for dtype in (self.dtype, None))
        found = None
        for count in sorted({min(COMPARED, len(images)), len(images)}):
            part = images[:count]
            expected = self._from(random, part, None)
            if logits is None:
                return None
            found = disagreement(logits[:count], expected, self._from(random, moved(part, own), self.dtype), unit)
            if found is None:
                break
        return found

    def _from(self, random: list[Tensor], images: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The model's logits with the random numbers that the view's pass began with, and without a trace."""
        with torch.random.fork_rng([images.device] if images.is_cuda else []), self._live.ready():
            _set_random_state(images, random)
            return self._logits(self.source._call_impl, images.clone(), dtype)  # not through torch.compile

    def _copy_pass(self, batch: Tensor) -> Tensor:
        with self._recomputed.active():
            return self._copy(batch)

    def _live_pass(self, images: Tensor) -> Tensor:
        return self._logits(self.source, Inputs()(images), self.dtype)

    def _logits(self, forward: Callable[[Tensor], Tensor], batch: Tensor, dtype: torch.dtype | None) -> Tensor:
        with torch.autocast(batch.device.type, dtype=dtype, enabled=dtype is not None):
            logits = logits_of(forward(batch), len(batch))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _go_live(self, reason: str) -> None:
        self.module = self._copy = None
        self.why_live = reason
        self.folded = []
        self.generation += 1
        name = type(self.source).__name__
        warnings.warn(f"{name} is attacked and measured itself, which is slower: {reason}", stacklevel=2)


@contextmanager
def _in_train_mode(model: nn.Module) -> Iterator[None]:
    """By its flags alone, which are put back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = True
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _random_state(images: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(images.device)] if images.is_cuda else [])]


def _set_random_state(images: Tensor, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if images.is_cuda:
        torch.cuda.set_rng_state(state[1], images.device)
