"""Posterior entropy and flatness: how sure a model is of its predictions, and how much its weights may be disturbed.

The ACT paper claims a high posterior entropy and convergence to flatter minima; its protocol is not public, so this one
is our reading of the claim: mean predictive entropy; accuracy and loss under Gaussian noise on the weights, relative to
each tensor's norm; the top eigenvalue of the loss's Hessian.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from act_engine.attack import frozen_model

POWER_STEPS, POWER_TOLERANCE = 50, 1e-3


@dataclass(frozen=True)
class Flatness:
    """Of one model on one set of labelled images, clean or adversarial; loss is the cross-entropy in nats."""

    entropy: float
    """Mean entropy of the predicted distribution, in nats; at most the log of the number of classes."""
    accuracy: list[float]
    """In [0, 1], mean of the draws, at each sigma of the weight noise."""
    loss: list[float]
    """Mean of the draws, at each sigma. Slower growth is a flatter minimum."""
    top_eigenvalue: float
    """Of the Hessian of the mean loss over the weights (`top_eigenvalue`). Lower is flatter."""
    relative_top_eigenvalue: float
    """The same with each tensor's weights measured in their own root mean square, which a rescaling that BatchNorm
    cancels leaves as it is."""


def measure_flatness(
    model: nn.Module, images: Tensor, labels: Tensor, *, sigmas: Sequence[float], draws: int = 5, seed: int = 0
) -> Flatness:
    """Measure `model`, in eval mode, on `images` [B, C, H, W] and `labels` [B]; it is left as it was."""
    noisy = [noisy_performance(model, images, labels, sigma=sigma, draws=draws, seed=seed) for sigma in sigmas]
    return Flatness(
        entropy=predictive_entropy(model, images),
        accuracy=[accuracy for accuracy, _ in noisy],
        loss=[loss for _, loss in noisy],
        top_eigenvalue=top_eigenvalue(model, images, labels, seed=seed),
        relative_top_eigenvalue=top_eigenvalue(model, images, labels, relative=True, seed=seed),
    )


def predictive_entropy(model: nn.Module, images: Tensor, batch_size: int = 500) -> float:
    """Mean entropy in nats of softmax(model(images)), temperature 1, eval mode."""
    with frozen_model(model), torch.no_grad():
        logits = torch.cat([model(batch) for batch in images.split(batch_size)]).double()
    return float(torch.special.entr(logits.softmax(1)).sum(1).mean())


def noisy_performance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    draws: int,
    seed: int = 0,
    batch_size: int = 500,
) -> tuple[float, float]:
    """Mean accuracy and cross-entropy (nats) over `draws` of the weights disturbed by noise of relative size `sigma`.

    Every parameter tensor w gets Gaussian noise whose expected norm is sigma · ‖w‖. A draw uses the same random numbers
    at every sigma, which only scales them. BatchNorm's running statistics stay as they are.
    """
    disturbed = copy.deepcopy(model)
    right = loss = 0.0
    with frozen_model(disturbed), torch.no_grad():
        for draw in range(draws):
            random = torch.Generator().manual_seed(seed * draws + draw)
            for mine, original in zip(disturbed.parameters(), model.parameters(), strict=True):
                noise = torch.randn(original.shape, generator=random, dtype=original.dtype).to(original.device)
                mine.copy_(original + sigma * _root_mean_square(original) * noise)
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                logits = disturbed(x).double()
                right += int((logits.argmax(1) == y).sum())
                loss += float(F.cross_entropy(logits, y, reduction="sum"))
    count = draws * len(labels)
    return right / count, loss / count


def top_eigenvalue(
    model: nn.Module, images: Tensor, labels: Tensor, *, relative: bool = False, seed: int = 0, batch_size: int = 500
) -> float:
    """The Hessian's eigenvalue of largest magnitude, by power iteration with exact Hessian-vector products.

    Of the mean cross-entropy over all trained parameters, eval mode. At a minimum it is the top one. `relative`: of
    D H D, D holding each parameter tensor's root mean square (as the adaptive sharpness of Kwon et al. 2021, arXiv
    2102.11600, scales by the weights). At most 50 iterations, fewer once the value moves by less than 0.1 %.
    """
    names, values = zip(*((name, p.detach()) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    scales = [_root_mean_square(value) if relative else 1.0 for value in values]
    random = torch.Generator().manual_seed(seed)
    vector = [torch.randn(v.shape, generator=random, dtype=v.dtype).to(v.device) for v in values]
    eigenvalue = 0.0
    with frozen_model(model):
        for _ in range(POWER_STEPS):
            length = sum(part.square().sum() for part in vector).sqrt()
            vector = [part / length.clamp_min(1e-30) for part in vector]
            scaled = [scale * part for scale, part in zip(scales, vector, strict=True)]
            product = [torch.zeros_like(value) for value in values]
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                weights = [value.clone().requires_grad_() for value in values]
                loss = F.cross_entropy(
                    functional_call(model, dict(zip(names, weights, strict=True)), (x,)), y, reduction="sum"
                )
                first = torch.autograd.grad(loss / len(labels), weights, create_graph=True)
                second = torch.autograd.grad(first, weights, scaled, materialize_grads=True)
                torch._foreach_add_(product, list(second))
            product = [scale * part for scale, part in zip(scales, product, strict=True)]
            before, eigenvalue = eigenvalue, float(sum((p * v).sum() for p, v in zip(product, vector, strict=True)))
            vector = product
            if abs(eigenvalue - before) <= POWER_TOLERANCE * abs(eigenvalue):
                break
    return eigenvalue


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.detach().square().mean().sqrt()
