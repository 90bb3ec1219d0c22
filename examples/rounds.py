"""What the examples share: a small model, batches, PGD in plain PyTorch, a comparison in turn over several rounds."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10


def small_model(classes: int = 10, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same weights at each call."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, classes)).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float32, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Random images [32, 3, 32, 32] in [0, 1] and labels, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.rand(size, 3, 32, 32, generator=generator).to(dtype)
        yield images, torch.randint(0, 10, (size,), generator=generator)


def plain_pgd(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """PGD from the image itself, as most trainers have it; labels are classes or distributions."""
    model.eval()
    x_adv = x
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), labels, reduction="sum"), x_adv)
        x_adv = x_adv.detach() + STEP_SIZE * grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    return x_adv


def compare(what: str, contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contender once a round, in turn; print the medians of the times and of the shares saved, each with its
    range; returns what they computed, by name, a value a round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()  # warm up
    for _ in range(rounds):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            values[name].append(contender())
            seconds[name].append(time.perf_counter() - begin)
    print(f"{what}, {rounds} rounds in turn, median (lowest to highest)")
    for name, took in seconds.items():
        middle = statistics.median(took)
        print(f"  {name:12s} {middle:.3f} s ({min(took):.3f} to {max(took):.3f}), result {values[name][-1]:.6g}")
    first, last = seconds.values()
    saved = [100 * (1 - b / a) for a, b in zip(first, last, strict=True)]
    print(f"  time saved   {statistics.median(saved):.0f} % ({min(saved):.0f} to {max(saved):.0f})")
    return values
