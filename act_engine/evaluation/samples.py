"""A few of a data set's images, and adversarial images made of them, for whatever looks at single images."""

import torch
from torch import Tensor, nn

from act_engine.attack import AttackView, unit_range
from act_engine.data import Loader
from act_engine.evaluation.attacks import PGDAttack, Place
from act_engine.evaluation.premises import WatchedView, check_batch, check_range
from act_engine.evaluation.subset import spread


def sample_images(loader: Loader, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` images [B, C, H, W], float in [0, 1], and labels [B], spread evenly over a whole test loader."""
    wanted = min(count, loader.num_samples)
    batches = spread(loader.epoch(0), first=0, wanted=wanted, total=loader.num_samples, batch_size=loader.batch_size)
    images, labels = zip(*batches, strict=True)
    return torch.cat([unit_range(part) for part in images]), torch.cat(labels)


def adversarial_images(
    model: nn.Module, images: Tensor, labels: Tensor, attack: PGDAttack, *, seed: int = 0, batch_size: int = 500
) -> Tensor:
    """The last iterates [B, C, H, W] of one run of `attack` on clean `images`, float in [0, 1]; no trace in `model`."""
    images, labels = check_batch(images, labels)
    check_range(images)
    view = AttackView(model)
    found = []
    with view.ready():
        for first in range(0, len(images), batch_size):
            x, y = images[first : first + batch_size], labels[first : first + batch_size]
            start = Place(first, len(images), seed).start(x, attack.eps, attack.norm, 0)
            found.append(attack.perturb(WatchedView(view), x, y, start))
    return torch.cat(found)
