"""Information compression: how little of its input a network's features keep.

The ACT paper claims higher information compression; its protocol is not public, so this one is our reading of the
claim: a small classifier on the frozen features is trained on labels that have nothing to do with the images. It can
only succeed by telling single images apart, so the less of them the features keep, the less it fits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_engine.attack import frozen_model

HIDDEN, STEPS, LEARNING_RATE = 8, 300, 0.01
"""The probe: one hidden layer of so many units, so many full-batch steps of Adam. On 500 images a network's 64 features
let 8 units fit a little under half of the labels, where differences show; 32 units fit them all."""
PROBE_LABELS = 10


@dataclass(frozen=True)
class Compression:
    """Of one model's features on one set of images."""

    probe_accuracy: float
    """Training accuracy, in [0, 1], of the probe on random labels, mean of the draws; chance is 1 in 10, or a little
    above. Lower is more compression."""
    effective_rank: float
    """Of the centred features (`effective_rank`), at most their dimension. Lower is more compression."""
    intrinsic_dimension: float
    """Of the features (`intrinsic_dimension`). Lower is more compression."""
    feature_dimension: int
    """Numbers that describe an image."""


def measure_compression(model: nn.Module, images: Tensor, *, draws: int = 3, seed: int = 0) -> Compression:
    """Measure the features (`penultimate`) of `images` [B, C, H, W], float in [0, 1].

    `draws` times, with labels and first weights that follow from `seed`.
    """
    features = penultimate(model, images)
    accuracies = [probe_accuracy(features, seed=seed * draws + draw) for draw in range(draws)]
    return Compression(
        probe_accuracy=sum(accuracies) / draws,
        effective_rank=effective_rank(features),
        intrinsic_dimension=intrinsic_dimension(features),
        feature_dimension=features.shape[1],
    )


def penultimate(model: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """What the model's last linear layer reads in eval mode, [B, features].

    Raises:
        ValueError: the model calls no linear layer.
    """
    found = []
    with frozen_model(model), torch.no_grad(), _linear_inputs(model) as inputs:
        for batch in images.split(batch_size):
            inputs.clear()
            model(batch)
            if not inputs:
                raise ValueError(f"model: {type(model).__name__} has no linear layer, whose input its features are")
            found.append(inputs[-1].flatten(1))
    return torch.cat(found)


def probe_accuracy(features: Tensor, *, seed: int = 0) -> float:
    """Training accuracy, in [0, 1], of a small perceptron fitted to uniform random labels of `features` [B, D].

    The features are centred and divided by one number, so that their scale does not count, but a direction that the
    model has squeezed stays squeezed. The probe's size and its training are fixed (`HIDDEN`, `STEPS`).
    """
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(PROBE_LABELS, (len(features),), generator=random).to(features.device)
    x = features.float() - features.float().mean(0)
    x = x / x.square().mean().sqrt().clamp_min(1e-12)
    sizes = [(x.shape[1], HIDDEN), (HIDDEN, PROBE_LABELS)]
    weights = [torch.randn(size, generator=random) * (2 / size[0]) ** 0.5 for size in sizes]
    biases = [torch.zeros(size[1]) for size in sizes]
    parameters = [tensor.to(x.device).requires_grad_() for tensor in (*weights, *biases)]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    first, second, first_bias, second_bias = parameters

    def logits() -> Tensor:
        return F.relu(x @ first + first_bias) @ second + second_bias

    with torch.enable_grad():
        for _ in range(STEPS):
            loss = F.cross_entropy(logits(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float((logits().argmax(1) == labels).float().mean())


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the centred features' normalised singular values (Roy and Vetterli, EUSIPCO 2007).

    `features` [B, D]: between 1 and min(B, D).
    """
    singular = torch.linalg.svdvals(features.double() - features.double().mean(0))
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def intrinsic_dimension(features: Tensor, discarded: float = 0.1) -> float:
    """The dimension of the manifold that `features` [B, D] lie on, by their two nearest neighbours (TwoNN).

    With mu the ratio of a point's distances to its second and first neighbour, −log(1 − F(mu)) = d · log mu: d is the
    slope of the line through the origin, fitted without the `discarded` share of the largest mu (Facco et al. 2017,
    Scientific Reports 7:12140). Of points that coincide one is kept.

    Raises:
        ValueError: fewer than 20 different points.
    """
    points = features.double().unique(dim=0)
    if len(points) < 20:
        raise ValueError(f"features: {len(points)} different ones; an intrinsic dimension needs 20 or more")
    near = torch.cat(
        [torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").topk(3, largest=False).values
         for part in points.split(1000)]
    )  # fmt: skip
    log_mu = (near[:, 2] / near[:, 1]).log().sort().values
    kept = int(len(points) * (1 - discarded))
    below = torch.arange(1, kept + 1, dtype=torch.float64, device=points.device) / len(points)
    x, y = log_mu[:kept], -torch.log1p(-below)
    return float((x @ y) / (x @ x))


@contextmanager
def _linear_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()
