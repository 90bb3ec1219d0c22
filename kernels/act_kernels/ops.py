"""The raw `torch.library` ops: each schema stated once, with its fake and its one door to the dispatcher.

Arguments that are "a number or a tensor" to the user are a pair here, (Tensor? tensor, float number): the tensor counts
when it is there. The raw ops have no derivative; `losses.py` attaches the gradients that they return.

`NAME` is the op that everybody calls, on any backend. `NAME.native` is the native library's kernel alone (csrc/ops),
which writes into tensors that it is given, all of one layout; `native.py` loads the library and calls it.
To add an op: its two schemas here; its function in csrc/ops/cpu.cpp and cuda.cpp, named in the list at their end; the
functions of that name in `reference`, `native` and `triton`; its name in `dispatch.OPS`.
"""

from typing import Any

import torch
from torch import Tensor

from .build_record import NAMESPACE, torch_ops
from .dispatch import implementation

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
_library.define(
    "act_loss(Tensor robust_logits, Tensor natural_logits, Tensor labels, float robust_alpha, float natural_alpha, "
    "float temperature, float grad_scale, bool robust_grad, bool natural_grad) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "kl_ce_loss(Tensor logits, Tensor target_logits, Tensor labels, float kl_weight, float ce_weight, "
    "float target_ce_weight, float temperature, float label_smoothing, float grad_scale, bool logits_grad, "
    "bool target_grad) -> (Tensor, Tensor, Tensor)"
)

_BOUNDS = "Tensor? lowers, float lower, Tensor? uppers, float upper"
_library.define(
    "pgd_step.native(Tensor(a!) out, Tensor x_adv, Tensor grad, Tensor x, Tensor? step_sizes, float step_size, "
    f"Tensor? epsilons, float eps, {_BOUNDS}, bool l2) -> ()"
)
_library.define(
    "random_start_.native(Tensor(a!) out, Tensor x, Tensor key, int first, bool gaussian, Tensor? scales, float scale, "
    f"{_BOUNDS}) -> ()"
)
_library.define(
    "act_loss.native(Tensor(a!) losses, Tensor(b!)? robust_grad, Tensor(c!)? natural_grad, Tensor robust_logits, "
    "Tensor natural_logits, Tensor labels, float robust_alpha, float natural_alpha, float temperature, "
    "float grad_scale) -> ()"
)
_library.define(
    "kl_ce_loss.native(Tensor(a!) losses, Tensor(b!)? logits_grad, Tensor(c!)? target_grad, Tensor logits, "
    "Tensor target_logits, Tensor labels, float kl_weight, float ce_weight, float target_ce_weight, float temperature, "
    "float label_smoothing, float grad_scale) -> ()"
)


def eager(t: Tensor) -> bool:
    """Whether an op on `t` may be run by its function here, past the dispatcher, which costs as much as a small step.

    Not under torch.compile, a functorch transform or a dispatch mode, nor on a subclass of Tensor: those see the op.
    """
    return (
        type(t) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


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


def _check_labels(labels: Tensor, classes: int) -> None:
    """Range check where it costs no synchronisation; on a GPU a label out of range makes its row NaN instead."""
    if labels.device.type == "cpu" and labels.numel():
        low, high = torch.aminmax(labels)
        if low < 0 or high >= classes:
            raise ValueError(f"labels: expected values in [0, {classes}), got {int(low)} to {int(high)}")


def _losses_and_gradients(op: str, first: Tensor, second: Tensor, labels: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    _check_labels(labels, first.shape[1])
    losses, *gradients = implementation(op, first)(first.contiguous(), second.contiguous(), labels.contiguous(), *rest)
    return (losses, *(first.new_empty(0) if g is None else g for g in gradients))


def act_loss(*arguments: Any) -> tuple[Tensor, ...]:
    """The op `act_loss` itself, on logits that carry no autograd history."""
    return _losses_and_gradients("act_loss", *arguments)


def kl_ce_loss(*arguments: Any) -> tuple[Tensor, ...]:
    """The op `kl_ce_loss` itself, on logits that carry no autograd history."""
    return _losses_and_gradients("kl_ce_loss", *arguments)


def _pgd_step_fake(x_adv: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x_adv, memory_format=_layout(x_adv))


def _nothing_fake(*_: Any) -> None:
    return None


def _losses_fake(shape: tuple[int, ...], logits: Tensor, *wanted: bool) -> tuple[Tensor, ...]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    gradients = (logits.new_empty(logits.shape if want else 0) for want in wanted)
    return (logits.new_empty(shape, dtype=dtype), *gradients)


def _act_loss_fake(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _losses_fake((2,), logits, *rest[-2:])


def _kl_ce_loss_fake(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _losses_fake((logits.shape[0],), logits, *rest[-2:])


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

for _name in ("pgd_step", "random_start_", "act_loss", "kl_ce_loss"):
    _library.impl(f"{_name}.native", torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"{NAMESPACE}::{_name}.native", _nothing_fake, lib=_library)
