"""Timing: rotated buffers, medians and percentiles, bytes moved against a plain copy of the same number of bytes."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

_WORKING_SET = 512 << 20  # buffers rotate through this much memory, more than any last-level cache holds
_LARGEST_ROTATION = 16


@dataclass
class Bench:
    """One run's rows, and the copies measured for it."""

    device: torch.device
    rounds: int
    rows: list[dict] = field(default_factory=list)
    copies: dict[int, float] = field(default_factory=dict)

    def rotation(self, bytes_each: int) -> int:
        """How many sets of buffers of this size leave none of them in a cache."""
        return max(2, min(_LARGEST_ROTATION, _WORKING_SET // max(bytes_each, 1)))

    def record(self, benchmark, op: str, size: str, contender: str, call: Callable, sets: Sequence[tuple], moved: int):
        """Time call(*set) over the rotated sets and add the row; `moved`: bytes the op must read and write.

        Under --benchmark-disable the call is made once, and no row is added.
        """
        if benchmark.disabled:
            benchmark.pedantic(call, args=sets[0])
            return
        if moved not in self.copies:
            self.copies[moved] = statistics.median(self._copy_samples(moved))
        samples = sorted(self._samples(benchmark, call, sets))
        median = statistics.median(samples)
        row = {
            "op": op,
            "size": size,
            "contender": contender,
            "median_us": median * 1e6,
            "p20_us": samples[len(samples) // 5] * 1e6,
            "p80_us": samples[len(samples) * 4 // 5] * 1e6,
            "gigabytes_per_second": moved / median / 1e9,
            "percent_of_copy": 100 * self.copies[moved] / median,
        }
        benchmark.extra_info |= row
        self.rows.append(row)

    def _samples(self, benchmark, call: Callable, sets: Sequence[tuple]) -> list[float]:
        turn = iter(range(10**9))

        def setup():
            return sets[next(turn) % len(sets)], {}

        if self.device.type != "cuda":
            benchmark.pedantic(call, setup=setup, rounds=self.rounds, warmup_rounds=3)
            return list(benchmark.stats.stats.data)
        for _ in range(3):
            call(*setup()[0])
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.rounds)]
        for start, end in events:
            arguments, _ = setup()
            start.record()
            call(*arguments)
            end.record()
        torch.cuda.synchronize()
        benchmark.pedantic(call, setup=setup, rounds=1)
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    def _copy_samples(self, moved: int) -> list[float]:
        count = max(moved // 2, 1)
        pairs = [
            tuple(torch.ones(count, dtype=torch.uint8, device=self.device) for _ in range(2))
            for _ in range(self.rotation(moved))
        ]
        return sorted(time_copies(pairs, self.rounds, self.device))


def time_copies(pairs: Sequence[tuple], rounds: int, device: torch.device) -> list[float]:
    """Seconds of each copy of a source into a destination, after one round of all pairs to warm up."""
    samples = []
    for i in range(len(pairs) + rounds):
        source, destination = pairs[i % len(pairs)]
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            destination.copy_(source)
            end.record()
            torch.cuda.synchronize()
            samples.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            destination.copy_(source)
            samples.append(time.perf_counter() - begin)
    return samples[len(pairs) :]
