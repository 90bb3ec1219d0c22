"""The raw `torch.library` ops: each schema stated once, with its fake and its one door to the dispatcher.

Arguments that are "a number or a tensor" to the user are a pair here, (Tensor? tensor, float number): the tensor counts
when it is there. The raw ops have no derivative; `losses.py` attaches the gradients that they return.

`NAME` is the op that everybody calls, on any backend. `NAME.native` is the native library's kernel alone (csrc/ops),
which writes into tensors that it is given, all of one layout, and says whether it took them; `native.py` loads the
library and calls it.
To add an op: its two schemas here; its function in csrc/ops/ops.h, and what runs it in cpu.cpp and cuda.cpp; the
functions of that name in `reference`, `native` and `triton`; its name in `dispatch.OPS`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import reference
from .build_record import NAMESPACE, torch_ops
from .dispatch import checking, implementation
from .reference.kl_ce_loss import NO_LOSS, ONE_A_ROW

_IMAGE_ARGUMENTS = (
    "Tensor grad, Tensor x, Tensor? step_sizes, float step_size, Tensor? epsilons, float eps, "
    "Tensor? lowers, float lower, Tensor? uppers, float upper, str norm"
)
_library = torch.library.Library(NAMESPACE, "DEF")
_library.define(f"pgd_step(Tensor x_adv, {_IMAGE_ARGUMENTS}) -> Tensor")
_library.define(f"pgd_step_(Tensor(a!) x_adv, {_IMAGE_ARGUMENTS}) -> ()")
_library.define(
    "random_start_(Tensor(a!) out, Tensor x, Tensor key, int first, bool gaussian, Tensor? scales, float scale, "
    "Tensor? lowers, float lower, Tensor? uppers, float upper) -> ()"
)
_LABELS = "Tensor? labels, Tensor? other_labels, Tensor? shares"
_library.define(
    f"act_loss(Tensor robust_logits, Tensor natural_logits, {_LABELS}, float robust_alpha, float natural_alpha, "
    "float temperature, float grad_scale, bool robust_grad, bool natural_grad) -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    f"kl_ce_loss(Tensor logits, Tensor target_logits, {_LABELS}, float kl_weight, float ce_weight, "
    "float target_ce_weight, float temperature, float label_smoothing, float grad_scale, int reduction, "
    "bool logits_grad, bool target_grad) -> (Tensor, Tensor, Tensor)"
)

_BOUNDS = "Tensor? lowers, float lower, Tensor? uppers, float upper"
_library.define(
    "pgd_step.native(Tensor(a!) out, Tensor x_adv, Tensor grad, Tensor x, Tensor? step_sizes, float step_size, "
    f"Tensor? epsilons, float eps, {_BOUNDS}, bool l2) -> bool"
)
_library.define(
    "random_start_.native(Tensor(a!) out, Tensor x, Tensor key, int first, bool gaussian, Tensor? scales, float scale, "
    f"{_BOUNDS}) -> bool"
)
_library.define(
    "act_loss.native(Tensor(a!) robust, Tensor(b!) natural, Tensor(c!)? robust_grad, Tensor(d!)? natural_grad, "
    f"Tensor robust_logits, Tensor natural_logits, {_LABELS}, float robust_alpha, float natural_alpha, "
    "float temperature, float grad_scale) -> bool"
)
_library.define(
    "kl_ce_loss.native(Tensor(a!)? losses, Tensor(b!)? logits_grad, Tensor(c!)? target_grad, Tensor logits, "
    f"Tensor target_logits, {_LABELS}, float kl_weight, float ce_weight, float target_ce_weight, float temperature, "
    "float label_smoothing, float grad_scale, int reduction) -> bool"
)
_library.define("rescale_.native(Tensor(a!)? first, Tensor(b!)? second, Tensor factor, float scale) -> bool")


def eager(t: Tensor) -> bool:
    """Whether an op on `t` may be run by its function here, past the dispatcher, which costs as much as a small step.

    Not under torch.compile, a functorch transform, a dual level or a dispatch mode, nor on a subclass of Tensor: those
    see the op.
    """
    return (
        type(t) is Tensor
        and not torch.compiler.is_compiling()
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


def direct(op: str, t: Tensor, *others: Tensor) -> Callable | None:
    """A function that runs `op` on a user's own arguments and returns None or False for those that it does not take.

    None where there is no such function, or not yet: `implementation` finds it. Then, and where it declines, the long
    way validates the arguments and lays them out.
    """
    function = checking.get((op, t.is_cpu, t.get_device())) if type(t) is Tensor else None
    if function is None or not eager(t):
        return None
    for other in others:
        if type(other) is not Tensor:
            return None
    return function


def _layout(t: Tensor) -> torch.memory_format:
    """The layout in which an op on `t` computes: channels_last where `t` is, else contiguous."""
    if not t.is_contiguous():
        if t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if t.dim() == 5 and t.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
    return torch.contiguous_format


def _either(tensor: Tensor | None, number: float) -> float | Tensor:
    return number if tensor is None else tensor


def _check_not_negative(epsilons: Tensor | None) -> None:
    """Where it costs no synchronisation."""
    if epsilons is not None and epsilons.device.type == "cpu" and not bool((epsilons >= 0).all()):
        raise ValueError("eps: expected values >= 0")


def _pgd_step_into(out: Tensor, x_adv: Tensor, grad: Tensor, x: Tensor, *rest: Any) -> None:
    step_sizes, step_size, epsilons, eps, lowers, lower, uppers, upper, norm = rest
    _check_not_negative(epsilons)
    layout = _layout(out)
    implementation("pgd_step", x_adv, grad)(
        out,
        x_adv.contiguous(memory_format=layout),
        grad.contiguous(memory_format=layout),
        x.contiguous(memory_format=layout),
        _either(step_sizes, step_size),
        _either(epsilons, eps),
        _either(lowers, lower),
        _either(uppers, upper),
        norm,
    )


def pgd_step(x_adv: Tensor, *rest: Any) -> Tensor:
    """The op `pgd_step` itself; `x_adv` and the rest carry no autograd history."""
    out = torch.empty_like(x_adv, memory_format=_layout(x_adv))
    _pgd_step_into(out, x_adv, *rest)
    return out


def _memory(t: Tensor) -> tuple[int, int]:
    """Addresses of a tensor's first byte and of the one after its last; the same twice for an empty tensor."""
    begin = t.data_ptr()
    if not t.numel():
        return begin, begin
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return begin, begin + (last + 1) * t.element_size()


def _check_apart(x_adv: Tensor, **others: Tensor) -> None:
    """What is written in place must not be what is read, through whatever view: the ball would move along."""
    begin, end = _memory(x_adv)
    for name, other in others.items():
        first, after = _memory(other)
        if first < end and begin < after:
            raise ValueError(
                f"inplace: x_adv must not share memory with {name}; start from a copy, such as x_adv = x.clone()"
            )


def pgd_step_inplace(x_adv: Tensor, *rest: Any) -> None:
    """The op `pgd_step_` itself; telling autograd of the write is the caller's part."""
    _check_apart(x_adv, grad=rest[0], x=rest[1])
    if x_adv.is_contiguous(memory_format=_layout(x_adv)):
        _pgd_step_into(x_adv, x_adv, *rest)
    else:
        x_adv.copy_(pgd_step(x_adv, *rest))


def _random_start_inplace(out: Tensor, x: Tensor, key: Tensor, first: int, gaussian: bool, *rest: Any) -> None:
    scales, scale, lowers, lower, uppers, upper = rest
    _check_not_negative(scales)
    layout = _layout(out)
    dense = out if out.is_contiguous(memory_format=layout) else torch.empty_like(out, memory_format=layout)
    implementation("random_start", out)(
        dense,
        x.contiguous(memory_format=layout),
        key,
        first,
        gaussian,
        _either(scales, scale),
        _either(lowers, lower),
        _either(uppers, upper),
    )
    if dense is not out:
        out.copy_(dense)


def _check_labels(labels: Tensor | None, classes: int) -> None:
    """Range check where it costs no synchronisation; on a GPU a label out of range makes its row NaN instead."""
    if labels is not None and labels.device.type == "cpu" and labels.numel():
        low, high = torch.aminmax(labels)
        if low < 0 or high >= classes:
            raise ValueError(f"labels: expected values in [0, {classes}), got {int(low)} to {int(high)}")


def _losses_and_gradients(op: str, *arguments: Any) -> tuple[Tensor, ...]:
    first, second, labels, other_labels, shares, *rest = arguments
    for of in (labels, other_labels):
        _check_labels(of, first.shape[1])
    operands = (None if t is None else t.contiguous() for t in (first, second, labels, other_labels, shares))
    results = implementation(op, first)(*operands, *rest)
    return tuple(first.new_empty(0) if t is None else t for t in results)


def act_loss(*arguments: Any) -> tuple[Tensor, ...]:
    """The op `act_loss` itself, on logits that carry no autograd history."""
    return _losses_and_gradients("act_loss", *arguments)


def kl_ce_loss(*arguments: Any) -> tuple[Tensor, ...]:
    """The op `kl_ce_loss` itself, on logits that carry no autograd history."""
    return _losses_and_gradients("kl_ce_loss", *arguments)


def rescale_(first: Tensor | None, second: Tensor | None, factor: Tensor, scale: float) -> None:
    """Multiply the gradients by scale · factor (one number), in place; a factor of 1 moves nothing."""
    grad = second if first is None else first
    run = reference.rescale_ if grad.is_cpu else implementation("rescale_", grad)
    run(first, second, factor, scale)


def _pgd_step_fake(x_adv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x_adv, memory_format=_layout(x_adv))


def _nothing_fake(*_: Any) -> None:
    return None


def _refused_fake(*_: Any) -> bool:
    return False


def _losses_fake(shapes: tuple[tuple[int, ...], ...], logits: Tensor, *wanted: bool) -> tuple[Tensor, ...]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    losses = (logits.new_empty(shape, dtype=dtype) for shape in shapes)
    return (*losses, *(logits.new_empty(logits.shape if want else 0) for want in wanted))


def _act_loss_fake(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _losses_fake(((), ()), logits, *rest[-2:])


def _kl_ce_loss_fake(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    reduction = rest[-3]
    if reduction == NO_LOSS:
        return (logits.new_empty(0), *_losses_fake((), logits, *rest[-2:]))
    return _losses_fake((logits.shape[:1] if reduction == ONE_A_ROW else (),), logits, *rest[-2:])


def _without_derivative(op: str, written: bool):
    """The op's autograd: run it below autograd; what it writes in place gets a new version, for autograd to notice."""

    def run(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            result = getattr(torch_ops, op).default(*arguments)
        if written:
            torch.autograd.graph.increment_version(arguments[0])
        return result

    return run


for _name, _function, _fake in (
    ("pgd_step", pgd_step, _pgd_step_fake),
    ("pgd_step_", pgd_step_inplace, _nothing_fake),
    ("random_start_", _random_start_inplace, _nothing_fake),
    ("act_loss", act_loss, _act_loss_fake),
    ("kl_ce_loss", kl_ce_loss, _kl_ce_loss_fake),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    _library.impl(_name, _without_derivative(_name, written=_name.endswith("_")), "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=_library)

for _name in ("pgd_step", "random_start_", "act_loss", "kl_ce_loss", "rescale_"):
    _library.impl(f"{_name}.native", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}.native", _refused_fake, lib=_library)
