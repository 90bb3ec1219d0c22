"""Model complexity: how much noise a training method fits, and the norms of what it trained.

The ACT paper claims a lower model complexity; its protocol is not public, so this one is our reading of the claim:
train with the run's own settings on partly random labels, and count how many of the random labels are learnt. A less
complex model learns fewer. Beside it stand the spectral and path norms of the trained model.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from act_engine.attack import AttackView, unit_range
from act_engine.config import Config
from act_engine.data import build_data, find_source
from act_engine.models import build_model, load_weights
from act_engine.runs.methods import deployed_model
from act_engine.training.trainer import Trainer

SPECTRAL_STEPS = 100
LAYERS = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class NoiseFit:
    """What training on partly random labels came to; shares in [0, 1], of clean training images, eval mode."""

    label_noise: float
    """Probability with which a label was replaced by a uniformly drawn one."""
    wrong_labels: int
    """Images whose label is another than their own by that."""
    fitted_noise: float
    """Share of those that the model gives the wrong label it was trained on. Lower is less complexity."""
    recovered_labels: float
    """Share of those that it gives their own label all the same."""
    fitted_rest: float
    """Share of the other images that it gives their label: without it a low `fitted_noise` says nothing."""


@dataclass(frozen=True)
class Norms:
    """Of one trained model, BatchNorm folded in; log10, because they are products over the layers."""

    log10_spectral_norm: float
    """Product of the layers' spectral norms over the median margin (Bartlett et al. 2017, arXiv 1706.08498)."""
    log10_path_norm: float | None
    """Root of the sum over all paths of the product of squared weights, over the median margin (Neyshabur et al. 2017,
    arXiv 1706.08947); None where a layer with weights is neither convolution, linear nor BatchNorm."""
    median_margin: float
    """Logit of the label minus the highest other one, over the images that are classified correctly."""


def fit_noise(config: Config, folder: Path, *, label_noise: float, classes: int | None, epochs: int | None) -> NoiseFit:
    """Train the run of `config` once more, in `folder`, on partly random labels, and see what it learnt.

    Same architecture, objective and settings, on the first `classes` classes (None: all) for `epochs` (None: as many
    as the run had). A run that is there already is not repeated. Measured on the model that would be deployed.

    Raises:
        ValueError: the data set cannot be held in memory, or a setting does not fit it.
    """
    if find_source(config.data.name).streamed:
        raise ValueError(
            f"--noise: got {label_noise} for a run on {config.data.name}; allowed: none, or images held in memory"
        )
    noisy = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, classes=classes or config.data.classes, label_noise=label_noise),
        model=dataclasses.replace(config.model, num_classes=None if classes else config.model.num_classes),
        train=dataclasses.replace(config.train, epochs=epochs or config.train.epochs),
        checkpoint=dataclasses.replace(config.checkpoint, best_every_epochs=None),
        evaluate=dataclasses.replace(config.evaluate, attack="none"),
    )
    trainer = Trainer(noisy, folder)
    name = deployed_model(trainer.learners)
    weights = folder / f"{name}.safetensors"
    if not weights.exists() and (code := trainer.run()):
        raise SystemExit(code)
    data = trainer.data
    own = build_data(**{**vars(noisy.data), "label_noise": 0.0}, device=trainer.world.device).train.labels
    model = build_model(**trainer.config.model.architecture(name), image_shape=data.image_shape)
    load_weights(model, weights)
    view = AttackView(model.to(trainer.world.device))
    given = data.train.labels
    with torch.no_grad():
        parts = [view(part.permute(0, 3, 1, 2)).argmax(1) for part in data.train.images.split(500)]
    predicted, wrong = torch.cat(parts), given != own
    if not wrong.any() or wrong.all():
        raise ValueError(f"--noise: got {label_noise}; with {len(own)} images no label, or no own label, is left")
    return NoiseFit(
        label_noise=label_noise,
        wrong_labels=int(wrong.sum()),
        fitted_noise=_share(predicted == given, wrong),
        recovered_labels=_share(predicted == own, wrong),
        fitted_rest=_share(predicted == given, ~wrong),
    )


def measure_norms(model: nn.Module, images: Tensor, labels: Tensor) -> Norms:
    """Measure the norms of `model` for inputs like `images` [B, C, H, W], whose margins with `labels` [B] scale them.

    BatchNorm counts as the convolution or linear layer that it makes together with the one before it, or else as a
    layer of its own. Residual connections are left out of the spectral product, as is usual.

    Raises:
        ValueError: no image is classified correctly.
    """
    module = AttackView(model, channels_last=False).module.double()
    images = unit_range(images).double()
    with torch.no_grad():
        logits = torch.cat([module(part) for part in images.split(500)])
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    margins = (of_label - other)[of_label > other]
    if not len(margins):
        raise ValueError("model: classifies none of the images correctly, so it has no margin to measure norms by")
    margin = float(margins.median())
    spectral = _log_spectral_norm(module, images[:1])
    path = _log_path_norm(module, images[:1])  # last: it overwrites the copy's weights
    return Norms(
        log10_spectral_norm=spectral - math.log10(margin),
        log10_path_norm=None if path is None else path - math.log10(margin),
        median_margin=margin,
    )


def spectral_norm(layer: nn.Module, input_shape: tuple[int, ...]) -> float:
    """The largest singular value of a convolution, linear or eval-mode BatchNorm layer as a map of one such input.

    By power iteration with the layer's own map and its transpose, so a convolution's padding and stride count.
    """
    if isinstance(layer, NORMS):
        return float((_norm_scale(layer)).abs().max())
    weight = layer.weight.detach()
    vector = torch.randn((1, *input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vector = vector.to(weight)

    def apply(x: Tensor) -> Tensor:
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight)
        return layer._conv_forward(x, weight, None)

    norm = 0.0
    with torch.enable_grad():
        for _ in range(SPECTRAL_STEPS):
            vector = (vector / vector.norm().clamp_min(1e-300)).requires_grad_()
            out = apply(vector)
            norm = float(out.detach().norm())
            (vector,) = torch.autograd.grad(out, vector, out.detach())
    return norm


def _log_spectral_norm(module: nn.Module, image: Tensor) -> float:
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    layers = [layer for layer in module.modules() if isinstance(layer, LAYERS + NORMS)]
    hooks = [
        layer.register_forward_pre_hook(lambda it, args: shapes.__setitem__(it, tuple(args[0].shape[1:])))
        for layer in layers
    ]
    with torch.no_grad():
        module(image)
    for hook in hooks:
        hook.remove()
    norms = [spectral_norm(layer, shape) for layer, shape in shapes.items()]
    return sum(math.log10(norm) if norm else -math.inf for norm in norms)


def _log_path_norm(module: nn.Module, image: Tensor) -> float | None:
    """log10 of the root of the squared network's summed output on an input of ones."""
    own = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    if not all(isinstance(layer, LAYERS + NORMS) for layer in own):
        return None
    _square(own)
    with torch.no_grad():
        total = float(module(torch.ones_like(image)).sum())
    return 0.5 * math.log10(total) if total else -math.inf


def _square(layers: list[nn.Module]) -> None:
    """Give each layer the square of its weights and no bias."""
    for layer in layers:
        if isinstance(layer, NORMS):
            scale = _norm_scale(layer).square()
            layer.running_mean.zero_()
            layer.running_var.fill_(1 - layer.eps)
            layer.weight.data.copy_(scale)
        else:
            layer.weight.data.square_()
        if layer.bias is not None:
            layer.bias.data.zero_()


def _norm_scale(layer: nn.Module) -> Tensor:
    scale = (layer.running_var + layer.eps).rsqrt()
    return scale if layer.weight is None else scale * layer.weight.detach()


def _share(hits: Tensor, among: Tensor) -> float:
    return float(hits[among].float().mean())
