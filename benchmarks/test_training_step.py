"""A whole ACT training step: the engine beside the plain steps, and what each speed-up contributes by itself.

    pytest benchmarks/ --benchmark-only -k training_step --save-results

Every round runs one step of each variant in turn, so that a machine's drift meets all of them; the speed-up is the
median over the rounds of each round's ratio. Attack efficiency is K times the time of a bare forward pass and input
gradient of the same model, dtype and layout, over the attack's time.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from steps import BASELINES, ON_GPU, VARIANTS, WORKLOADS, Step, build

from act_engine.attack import input_gradient

ROUNDS = 7
WEIGHED = (*BASELINES, "engine", "engine with recomputation")
"""Variants whose peak memory is measured, each in a process of its own."""


def seconds(call, device: torch.device) -> float:
    """Wall-clock time of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def attack_efficiency(step: Step, device: torch.device, rounds: int) -> float:
    """Bare passes and attacks timed in turn; 1 means that the attack costs its model's passes and nothing else."""
    attack, x, y = step.trainer.train_step.attack, step.images, step.labels
    target = torch.randn(len(y), step.trainer.config.model.num_classes, device=device)
    direction = torch.randn_like(target)
    x_float = (x / 255).contiguous(memory_format=torch.channels_last)
    count = step.trainer.config.attack.steps

    def bare():
        for _ in range(count):
            input_gradient(attack.view, x_float, lambda logits: direction)

    def whole():
        attack(x, y, target)

    for call in (bare, whole, whole):
        call()
    pairs = [(seconds(bare, device), seconds(whole, device)) for _ in range(rounds)]
    return statistics.median(b / w for b, w in pairs)


@pytest.mark.parametrize("name", ["large_pgd3", "large_pgd10"] if ON_GPU else ["small"])
def test_training_step(benchmark, bench, name, tmp_path):
    device, workload = bench.device, WORKLOADS[name]
    steps = {variant: build(variant, workload, tmp_path) for variant in VARIANTS}
    first = {variant: torch.stack(step.run()).cpu() for variant, step in steps.items()}
    expected = first["baseline float32"]
    for variant, losses in first.items():  # the same step, up to the noise of the start and the precision
        torch.testing.assert_close(losses, expected, rtol=0.1, atol=0.02, msg=lambda m, v=variant: f"{v}: {m}")
    for step in steps.values():
        step.run()
    samples: dict[str, list[float]] = {variant: [] for variant in VARIANTS}

    def one_round():
        for variant, step in steps.items():
            samples[variant].append(seconds(step.run, device))

    benchmark.pedantic(one_round, rounds=ROUNDS)
    efficiency = attack_efficiency(steps["engine"], device, ROUNDS)
    for variant, measured in samples.items():
        ratios = [own / engine for own, engine in zip(measured, samples["engine"], strict=True)]
        times = sorted(measured)
        median = statistics.median(times)
        row = {
            "op": "training_step",
            "size": str(workload),
            "contender": variant,
            "median_us": median * 1e6,
            "p20_us": times[len(times) // 5] * 1e6,
            "p80_us": times[len(times) * 4 // 5] * 1e6,
            "images_per_second": workload.batch / median,
            "engine_speed_up": statistics.median(ratios),
        }
        if "without" in variant:
            row["note"] = "as the engine, with this one speed-up switched off"
        if variant in WEIGHED:
            row["peak_bytes"] = peak_bytes(variant, name)
        if variant == "engine":
            row["attack_efficiency"] = efficiency
        benchmark.extra_info[variant] = row
        bench.rows.append(row)


def peak_bytes(variant: str, workload: str) -> int:
    script = Path(__file__).with_name("steps.py")
    result = subprocess.run(
        [sys.executable, str(script), variant, workload], capture_output=True, text=True, check=True
    )
    return int(result.stdout.split()[-1])
