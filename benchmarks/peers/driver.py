"""One contender in a process of its own: ``python driver.py NAME`` reads requests and writes answers, a JSON line each.

    {"do": "prepare", "task": {…}}   → {"version": "3.5.1"}           builds the model and the call
    {"do": "update", "file": "…"}    → {}                             makes one training step, saves the weights
    {"do": "run"}                    → {"seconds": …, "cpu_seconds": …, "right": […]}   makes a step, or evaluates
    {"do": "peak"}                   → {"peak_bytes": …}              resident memory above that before the first call

An answer with "error", in one line, says what went wrong. What a library prints goes to standard error.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from setting import Setting, read_setting


class Contender:
    """The state between two requests."""

    def __init__(self, name: str) -> None:
        self.driver = importlib.import_module(f"drivers.{name}")
        self.setting: Setting | None = None

    def prepare(self, task: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(task["threads"])
        torch.manual_seed(task["seed"])
        table = self.driver.STEPS if task["kind"] == "step" else self.driver.EVALUATIONS
        if task["name"] not in table:
            return {"error": f"has no {task['kind']} {task['name']}"}
        self.setting = self.call = None
        gc.collect()
        self.setting = read_setting(task)
        self.before = _resident("VmRSS")
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.call = table[task["name"]](self.setting)
        return {"version": version(self.driver.PACKAGE)}

    def update(self, file: str) -> dict[str, Any]:
        self.call()
        torch.save(self.setting.model.state_dict(), file)
        return {}

    def run(self) -> dict[str, Any]:
        cpu, begin = time.process_time(), time.perf_counter()
        result = self.call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answer = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        return answer if result is None else answer | {"right": result.tolist()}

    def peak(self) -> dict[str, Any]:
        if torch.cuda.is_available():
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        return {"peak_bytes": _resident("VmHWM") - self.before}


def _resident(field: str) -> int:
    """A figure of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contender = None
    for line in sys.stdin:
        request = json.loads(line)
        action = request.pop("do")
        try:
            contender = contender or Contender(sys.argv[1])
            answer = getattr(contender, action)(**request)
        except Exception as error:  # a peer may fail in any way; the others are measured all the same
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
