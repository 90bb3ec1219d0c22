"""Everything that proves the kernels on a GPU, in one go, with a table of verdicts: ``make gpu-check``.

Builds the extension, runs the tests that need a GPU, and runs every CUDA and Triton kernel at small sizes under
compute-sanitizer. Each part writes its output into ``build/gpu-check/PART.log``.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "gpu-check"
# What the sanitizer makes too slow, or what launches nothing new: graphs, billions of elements, overlapping streams.
SMALL = "not graph and not beyond and not overlap and not launches and not many and not large and not more_samples"
OURS = "kne=(linf_step|l2_(sums|apply|whole)|random_start|pair_loss|rows|mean|linf)_kernel"


def parts() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Name, command and further environment of each part, in order."""
    python, test = sys.executable, [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu"]
    install = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "-e", "."]
    commands = {"build": (install, {"ACT_BUILD": "cuda"}), "tests": (test, {})}
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", "--kernel-regex", OURS]
        # PyTorch's caching allocator would hide accesses beyond a tensor inside its own large blocks.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "HYPOTHESIS_PROFILE": "few"}
        commands[tool] = ([*sanitizer, *test, "tests/kernels", "-k", SMALL], environment)
    return commands


def main() -> int:
    """Run all parts, whatever the ones before gave; returns 1 if any failed, 2 where nothing can run."""
    import torch

    if not torch.cuda.is_available():
        print("error: no CUDA device: gpu-check needs one", file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    lines, failed = [], False
    for name, (command, environment) in parts().items():
        began = time.monotonic()
        log = LOGS / f"{name}.log"
        try:
            with log.open("w") as output:
                code = subprocess.run(
                    command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output, check=False
                ).returncode
            last = (log.read_text(errors="replace").strip() or "–").splitlines()[-1]
        except FileNotFoundError:
            code, last = 1, f"{command[0]} is not on the PATH (it comes with the CUDA toolkit)"
        failed |= code != 0
        lines.append(f"{name:<10} {'pass' if code == 0 else 'FAIL':<5} {time.monotonic() - began:6.0f} s  {last[:90]}")
        print(lines[-1], flush=True)
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}\n" + "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
