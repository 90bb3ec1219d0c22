"""Train twice, with trades_before.py and trades_after.py, and compare: the same losses, less time and memory.

python examples/trades.py [--steps N]
"""

import argparse
import time

import torch
import trades_after
import trades_before
from torch.profiler import ProfilerActivity, profile, record_function


def small_model(classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(256, classes),
    )


def train(train_step, steps: int, batch: int = 32) -> tuple[list[float], float]:
    """Losses of a short training on fixed random images, and the seconds it took."""
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 10, (batch,), generator=generator)
    torch.manual_seed(2)
    begin = time.perf_counter()
    losses = [train_step(model, optimizer, x, labels).item() for _ in range(steps)]
    return losses, time.perf_counter() - begin


def bytes_allocated(train_step) -> int:
    """Memory that one training step asks for in all."""
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler,
        record_function("train"),
    ):
        train(train_step, 1)
    return sum(max(event.self_cpu_memory_usage, 0) for event in profiler.events())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    train(trades_before.train_step, 1)  # warm up
    before, seconds_before = train(trades_before.train_step, steps)
    after, seconds_after = train(trades_after.train_step, steps)
    difference = max(abs(a - b) / abs(a) for a, b in zip(before, after, strict=True))
    memory_before, memory_after = bytes_allocated(trades_before.train_step), bytes_allocated(trades_after.train_step)
    print(f"last loss     before {before[-1]:.6f}, after {after[-1]:.6f}; largest relative difference {difference:.1e}")
    saved = 1 - seconds_after / seconds_before
    print(f"seconds       before {seconds_before:.2f}, after {seconds_after:.2f}; {saved:.0%} saved")
    saved = 1 - memory_after / memory_before
    print(
        f"MB allocated  before {memory_before / 1e6:.1f}, after {memory_after / 1e6:.1f} in one step; {saved:.0%} saved"
    )


if __name__ == "__main__":
    main()
