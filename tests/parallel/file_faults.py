"""Runs that are killed at their file operations, or find the disk full there: the workers of test_file_faults.py.

Run as a script with an output folder, the processes of a run, and what to do: ``kills STRIDE`` or ``disk SIZES``; with
file_faults.c preloaded. What came of it goes into ``outcomes.json``.
"""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from faults import run
from worlds import import_all

SHORT = {
    "data__train_samples": 64,
    "data__selection_samples": 16,
    "data__batch_size": 32,
    "train__epochs": 1,
    "checkpoint__every_steps": 1,
    "checkpoint__keep": 1,
    "checkpoint__best_every_epochs": 1,
    "checkpoint__best_steps": 1,
    "evaluate__attack": "pgd",
    "evaluate__steps": 1,
    "evaluate__restarts": 1,
    "evaluate__images": 16,
    "evaluate__check_masking": "false",
}
WRITERS = {
    "checkpoints": "checkpoints/",
    "records": "metrics.jsonl",
    "board": "tensorboard/",
    "exports": "/.robust,/.natural,/.last",
    "JSON": "/.config,/.environment,/.data.json,/.evaluation,/evaluations/,/measured/",
}
"""The parts of a run that write, by what the paths of their files hold."""


def armed(folder: Path, kinds: str = "", kill_at: int = 0, budget: int = -1) -> Callable[[], None]:
    """What rank 0 does before it starts: from then on its files under the run's folder are as told."""

    def prepare() -> None:
        if os.environ["RANK"] == "0":
            library = ctypes.CDLL(None)
            root = f"{folder / 'run'}/".encode()
            library.arm(root, kinds.encode(), ctypes.c_long(kill_at), ctypes.c_long(budget))

    return prepare


def counted(folder: Path, counts: Path) -> Callable[[], None]:
    """The same with nothing that fails: at the end `counts` holds the number of operations, and of bytes written."""
    ready = armed(folder, budget=10**12)

    def prepare() -> None:
        ready()
        if os.environ["RANK"] == "0":
            library, leave = ctypes.CDLL(None), os._exit

            def count(code: int) -> None:
                counts.write_text(json.dumps([library.operations(), library.written()]))
                leave(code)

            os._exit = count

    return prepare


def results(folder: Path) -> dict[str, str]:
    """The digest of each file that a run comes to, but for what tells times and machines."""
    kinds = (
        "*.safetensors",
        "checkpoints/step-*/*",
        "config.yaml",
        "data.json",
        "evaluation.json",
        "evaluations/*.json",
    )
    files = [file for kind in kinds for file in folder.glob(kind)]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}


def different(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith((".partial", ".lock"))]


def reference(output: Path, size: int) -> tuple[dict[str, str], int, int]:
    """What an undisturbed run comes to, its file operations, and the bytes that it writes."""
    folder = output / "whole"
    told = run(folder, size, counted(folder, output / "counts.json"), **SHORT)
    if told["codes"] != [0] * size:
        raise SystemExit(f"the undisturbed run failed: {told['err']}")
    operations, written = json.loads((output / "counts.json").read_text())
    return results(folder / "run"), operations, written


def kills(output: Path, size: int, stride: int) -> dict:
    """Kill at each `stride`-th operation of a run, each time a new one, and let it go on to its end."""
    expected, operations, _ = reference(output, size)
    differ = []
    points = range(1, operations + 1, stride)
    for point in points:
        folder = output / "killed"
        killed = run(folder, size, armed(folder, kill_at=point), reap=True, **SHORT)
        again = run(folder, size, **SHORT)
        codes = [killed["codes"][0], *again["codes"]]
        wrong = different(results(folder / "run"), expected) + leftovers(folder / "run")
        if codes != [-signal.SIGKILL, *[0] * size] or wrong:
            differ.append({"point": point, "codes": codes, "wrong": wrong, "err": again["err"][0][-500:]})
        shutil.rmtree(folder)
    return {"operations": operations, "tried": len(points), "differ": differ}


def disk(output: Path, size: int, sizes: int) -> dict:
    """Let each writer find the disk full at each of `sizes` fills, with both ways on; then make room again."""
    expected, _, written = reference(output, size)
    outcomes = []
    for writer, kinds in WRITERS.items():
        _, own = _written_by(output, size, kinds)
        for fill in range(sizes):
            for on_error in ("stop", "continue"):
                folder = output / "full"
                budget = own * fill // sizes
                options = {**SHORT, "checkpoint__on_error": on_error}
                full = run(folder, size, armed(folder, kinds, budget=budget), **options)
                left = leftovers(folder / "run") if (folder / "run").exists() else []
                again = run(folder, size, **options)
                found = results(folder / "run")
                found["config.yaml"] = expected["config.yaml"]  # which holds on_error
                outcomes.append(
                    {
                        "writer": writer,
                        "on_error": on_error,
                        "budget": budget,
                        "codes": full["codes"],
                        "out": full["out"][0],
                        "err": full["err"],
                        "left": left,
                        "again": again["codes"],
                        "differ": different(found, expected),
                    }
                )
                shutil.rmtree(folder)
    return {"written": written, "outcomes": outcomes}


def _written_by(output: Path, size: int, kinds: str) -> tuple[int, int]:
    folder, counts = output / "counted", output / "counts.json"

    def prepare() -> None:
        counted(folder, counts)()
        armed(folder, kinds, budget=10**12)()

    run(folder, size, prepare, **SHORT)
    shutil.rmtree(folder)
    return tuple(json.loads(counts.read_text()))


def main(output: Path, size: int, what: str, number: int) -> None:
    torch.set_num_threads(1)
    import_all()
    output.mkdir(parents=True, exist_ok=True)
    outcome = {"kills": kills, "disk": disk}[what](output, size, number)
    (output / "outcomes.json").write_text(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
