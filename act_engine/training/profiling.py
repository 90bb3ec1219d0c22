"""Where a training step's time goes: a trace to look at, and a table of the step's parts."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from act_engine.runs.folder import PROFILE, write_json
from act_engine.training.step import OBJECTIVE

SKIPPED, WARM_UP, MEASURED = 3, 2, 5
"""Steps passed over (compilation, first allocations), steps to warm the profiler up, steps measured."""

INNER = ("natural forward", "attack", "robust forward")
OUTER = ("data wait", "backwards", "optimizers")


class NoProfile:
    """What stands in for `StepProfile` where nothing is profiled."""

    def step(self) -> None:
        """Nothing is done."""

    def __enter__(self) -> "NoProfile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing is done."""


class StepProfile:
    """Profiles a few steps of a run, then writes trace.json and profile.json into its folder and reports the table.

    Args:
        folder: of the run.
        report: told the table, as text, and the share of each part, once.
    """

    def __init__(self, folder: Path, report: Callable[[str, dict[str, float]], None]) -> None:
        self._folder, self._report = folder, report
        gpu = torch.cuda.is_available()
        self._profile = profile(
            activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu,
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=MEASURED, repeat=1),
            on_trace_ready=self._finish,
            acc_events=True,
        )

    def step(self) -> None:
        """A training step has ended."""
        self._profile.step()

    def __enter__(self) -> "StepProfile":
        self._profile.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._profile.__exit__(kind, error, trace)

    def _finish(self, measured: profile) -> None:
        measured.export_chrome_trace(str(self._folder / "trace.json"))
        parts = step_parts(measured)
        write_json(self._folder / PROFILE, {"steps": MEASURED, "milliseconds": parts})
        self._report(format_parts(parts), {part: value / parts["step"] for part, value in parts.items()})


def step_parts(measured: profile) -> dict[str, float]:
    """Milliseconds a step of each part, ``other`` and the whole ``step``: the GPU's time where there is one."""
    spent: dict[str, float] = {}
    steps = [event for event in measured.events() if event.name.startswith("ProfilerStep")]
    for event in measured.key_averages():
        on_gpu: Any = event.device_time_total if torch.cuda.is_available() else event.cpu_time_total
        spent[event.key] = max(spent.get(event.key, 0.0), on_gpu) / 1e3 / len(steps)
    parts = {part: spent.get(part, 0.0) for part in INNER}
    parts["losses"] = max(spent.get(OBJECTIVE, 0.0) - sum(parts.values()), 0.0)
    parts |= {part: spent.get(part, 0.0) for part in OUTER}
    whole = sum(event.cpu_time_total for event in steps) / 1e3 / len(steps)
    parts["other"] = max(whole - sum(parts.values()), 0.0)
    return {**parts, "step": whole}


def format_parts(parts: dict[str, float]) -> str:
    """The parts of a step as a table for the terminal."""
    rows = [f"{part:<16}{value:>10.2f}{100 * value / parts['step']:>8.1f}" for part, value in parts.items()]
    return "\n".join([f"{'part of a step':<16}{'ms':>10}{'%':>8}", *rows])
