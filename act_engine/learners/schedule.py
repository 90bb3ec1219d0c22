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
) -> Callable[[int], float]:
    """The learning rate of optimizer step 0, 1, …, as a function of its number.

    Args:
        name: ``"constant"``, ``"multistep"`` (times `gamma` before each epoch in `milestones`), ``"cosine"`` (to 0 at
            `total_steps`) or ``"onecycle"`` (linear up over the first 30 % of `total_steps`, then linear down to 0).
        lr: the rate at the start; for onecycle the highest.
    """

    def multistep(step: int) -> float:
        return lr * gamma ** sum(step >= milestone * steps_per_epoch for milestone in milestones)

    def cosine(step: int) -> float:
        return lr * 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1)))

    def onecycle(step: int) -> float:
        progress = min((step + 1) / total_steps, 1)
        return lr * (progress / 0.3 if progress < 0.3 else max((1 - progress) / 0.7, 0.0))

    schedules = {"constant": lambda step: lr, "multistep": multistep, "cosine": cosine, "onecycle": onecycle}
    if name not in schedules:
        raise ValueError(f"optim.schedule: got {name!r}; allowed: {', '.join(schedules)}")
    return schedules[name]
