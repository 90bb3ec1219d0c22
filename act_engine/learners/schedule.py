"""Learning-rate schedules as functions of the step, so that a resumed run needs no schedule state."""

import math
from collections.abc import Callable, Sequence


def lr_schedule(
    name: str,
    *,
    lr: float,
    steps_per_epoch: int,
    total_steps: int,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    peak: float = 0.3,
    warmup_epochs: float = 0.0,
    warmup_lr: float = 0.0,
    final_lr: float = 0.0,
    every: str = "step",
) -> Callable[[int], float]:
    """The learning rate of optimizer step 0, 1, …, as a function of its number.

    Args:
        name: ``"constant"``, ``"multistep"`` (times `gamma` before each epoch in `milestones`), ``"cosine"`` (linear
            from `warmup_lr` to `lr` over `warmup_epochs`, then along a cosine to `final_lr` at `total_steps`),
            ``"onecycle"`` (linear up over the share `peak` of `total_steps`, then linear down to 0) or
            ``"onecycle_cosine"``: from lr / 25 along a cosine to `lr` after that share, and along another to lr / 25e4
            at the last step (`torch.optim.lr_scheduler.OneCycleLR`).
        lr: the rate at the start; with a warm-up or one cycle the highest.
        every: ``"step"``, or ``"epoch"``: the rate changes before an epoch alone, of which the schedule then counts
            as many steps as it has epochs.
    """
    if every == "epoch":
        epochs, length = math.ceil(total_steps / steps_per_epoch), steps_per_epoch
        total_steps, steps_per_epoch = epochs, 1

    def multistep(step: int) -> float:
        return lr * gamma ** sum(step >= milestone * steps_per_epoch for milestone in milestones)

    def cosine(step: int) -> float:
        warmup = warmup_epochs * steps_per_epoch
        if step < warmup:
            return warmup_lr + (lr - warmup_lr) * step / warmup
        return _along_a_cosine(lr, final_lr, (step - warmup) / max(total_steps - warmup, 1))

    def onecycle(step: int) -> float:
        progress = min((step + 1) / total_steps, 1)
        return lr * (progress / peak if progress < peak else max((1 - progress) / (1 - peak), 0.0))

    def onecycle_cosine(step: int) -> float:
        return _one_cycle(step, total_steps, peak, (lr / 25, lr, lr / 25e4))

    schedules = {
        "constant": lambda step: lr,
        "multistep": multistep,
        "cosine": cosine,
        "onecycle": onecycle,
        "onecycle_cosine": onecycle_cosine,
    }
    if name not in schedules:
        raise ValueError(f"optim.schedule: got {name!r}; allowed: {', '.join(schedules)}")
    rate = schedules[name]
    return (lambda step: rate(step // length)) if every == "epoch" else rate


def momentum_cycle(
    *, steps_per_epoch: int, total_steps: int, peak: float, every: str = "step", low: float = 0.85, high: float = 0.95
) -> Callable[[int], float]:
    """The momentum of step 0, 1, … in PyTorch's OneCycleLR, by default: from `high` to `low` at the peak, and back."""
    length = steps_per_epoch if every == "epoch" else 1
    count = math.ceil(total_steps / length)
    return lambda step: _one_cycle(step // length, count, peak, (high, low, high))


def _one_cycle(step: int, total_steps: int, peak: float, values: tuple[float, float, float]) -> float:
    """First, middle and last value, with a cosine between them; the middle one after the share `peak` of the steps."""
    first, middle, end = values
    turn, last = peak * total_steps - 1, total_steps - 1  # steps; the first may lie before step 0
    if step <= turn:
        return _along_a_cosine(first, middle, step / turn if turn else 1.0)
    return _along_a_cosine(middle, end, (step - turn) / (last - turn))


def _along_a_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
