"""What the steps of a run take for granted about its models, tried on two images before the first one."""

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.attack import require_within, untouched
from act_engine.attack.outputs import logits_of
from act_engine.evaluation.premises import PremiseWarning


def check_model(
    model: nn.Module, what: str, shapes: Collection[tuple[int, ...]], *, num_classes: int, pass_size: int | None
) -> None:
    """Pass noise through a model in eval mode, and if it is trained in train mode; it is left as it was.

    Args:
        what: how a message begins: the setting that chose the model, and its value.
        shapes: of an image, (C, H, W), that the run will show it.
        pass_size: images of a training pass (data.batch_size / train.accumulate); None: it is not trained.

    Raises:
        ValueError: it does not take such images, or its output is no logits [images, num_classes].
    """
    for shape in shapes:
        allowed = f"a model that takes images of {list(shape)} (C, H, W)"
        output, error = _output(model, shape, 2, training=False)
        if error is None:
            _check_output(output, what, num_classes)
            if pass_size is None:
                continue
            _, error = _output(model, shape, min(pass_size, 2), training=True)
            if error is None:
                continue
            allowed += " in training"
            if pass_size == 1 and _output(model, shape, 2, training=True)[1] is None:
                raise ValueError(
                    "data.batch_size: got 1 image a pass (data.batch_size / train.accumulate), of which a BatchNorm "
                    f"has one value a channel; allowed: 2 or more, with {what}"
                )
        raise ValueError(f"{what}; allowed: {allowed} ({error})")


def check_ball(eps: float, step_size: float, norm: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError where the attack of a run on images (C, H, W) reaches further than any two of them lie apart."""
    require_within("attack.eps", eps, norm, shape)
    require_within("attack.step_size", step_size, norm, shape)


def _output(model: nn.Module, shape: tuple[int, ...], count: int, *, training: bool) -> tuple[Any, str | None]:
    """What the model gives for `count` images of noise, and None; or None, and the first line of what it raises."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    noise = torch.rand(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    modes = {module: module.training for module in model.modules()}
    devices = [like.device] if like.is_cuda else []
    try:
        with torch.random.fork_rng(devices), untouched(model), torch.no_grad():
            return model.train(training)(noise.to(like.device, like.dtype)), None
    except Exception as error:  # a model may raise anything
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:200]}"
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_output(output: Any, what: str, num_classes: int) -> None:
    try:
        logits: Tensor = logits_of(output, 2)
    except ValueError as error:
        raise ValueError(f"{what}: {str(error).removeprefix('model: ')}") from None
    if logits.shape[1] < num_classes:
        raise ValueError(f"{what}; allowed: a model of {num_classes} classes or more, where it has {logits.shape[1]}")
    shares = ((logits.double().sum(1) - 1).abs() < 0.01).all()  # well over half precision's rounding
    if shares and (logits >= 0).all():
        text = f"{what}: its outputs look like probabilities; the losses expect the logits before them"
        warnings.warn(text, PremiseWarning, stacklevel=2)
