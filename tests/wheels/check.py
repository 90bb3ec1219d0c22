"""Install act-kernels' wheel into fresh environments, one for each torch, and run `suite.py` there with no compiler.

    python tests/wheels/check.py dist --torch 2.11.0 2.13.0 --python python3.10 python3.13

Each environment has torch, the wheel and nothing else; its PATH holds its own programs alone. A torch that cannot be
had is named, and counts as a failure. `--index` says where torch comes from: https://download.pytorch.org/whl/cpu has
builds for the CPU. `--libraries-of` names a site-packages folder whose CUDA libraries a torch of a CUDA build may use,
which saves gigabytes a version: torch is then installed without its dependencies on them.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

_SUITE = Path(__file__).with_name("suite.py").resolve()
_NEEDS = ("typing_extensions", "sympy", "networkx", "jinja2", "fsspec", "filelock", "setuptools")  # torch's own, pure


def _run(*command: str, **options) -> str | None:
    """The last line of what went wrong, or None."""
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    output = (result.stdout + result.stderr).strip().splitlines()
    return None if result.returncode == 0 else "\n".join(output[-8:])


def _environment(folder: Path, python: str, torch: str, index: str | None, libraries: Path | None) -> str | None:
    """Make the environment, or keep what is there; the reason why torch cannot be had, or None."""
    interpreter = str(folder / "bin" / "python")
    pip = (interpreter, "-m", "pip", "install", "--quiet", *(("--index-url", index) if index else ()))
    if not Path(interpreter).exists() and (reason := _run(python, "-m", "venv", str(folder))):
        return reason
    if _run(interpreter, "-c", "import torch") is None:
        return None
    if libraries is None:
        return _run(*pip, f"torch=={torch}")
    (site,) = folder.glob("lib/python*/site-packages")
    if not (site / "nvidia").exists():
        (site / "nvidia").symlink_to(libraries.resolve() / "nvidia")
    return _run(*pip, "--no-deps", f"torch=={torch}") or _run(*pip, *_NEEDS)


def _check(folder: Path, wheel: Path) -> str | None:
    interpreter = str((folder / "bin" / "python").absolute())
    reason = _run(
        *(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall"), str(wheel)
    )
    alone = {"PATH": str((folder / "bin").absolute()), "OMP_NUM_THREADS": "1"}
    return reason or _run(interpreter, "-W", "ignore", str(_SUITE), "--installed", cwd=folder, env=alone)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="the folder with the wheels")
    parser.add_argument("--torch", nargs="+", default=["2.11.0", "2.12.1", "2.13.0", "2.15.0"])
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="interpreters, taken in turn")
    parser.add_argument("--index", help="a package index for torch")
    parser.add_argument("--libraries-of", type=Path, help="a site-packages folder with torch's CUDA libraries")
    parser.add_argument("--environments", type=Path, default=Path("build/wheel-check"))
    options = parser.parse_args(arguments)
    wheels = sorted(options.dist.resolve().glob("act_kernels-*manylinux*_x86_64.whl"))
    if len(wheels) != 1:
        print(
            f"dist: got {len(wheels)} wheels of act-kernels for Linux in {options.dist}; allowed: one", file=sys.stderr
        )
        return 2
    failed = 0
    for torch, python in zip(options.torch, cycle(options.python), strict=False):
        folder = options.environments / f"torch-{torch}"
        reason = _environment(folder, python, torch, options.index, options.libraries_of)
        outcome = f"cannot be had: {reason}" if reason else _check(folder, wheels[0]) or "passed"
        failed += outcome != "passed"
        print(f"torch {torch}, {Path(python).name}: {outcome}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
