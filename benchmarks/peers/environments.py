"""The peers' environments: ``python benchmarks/peers/environments.py [NAME …]`` sets them up, as ``make peers`` does.

Each peer has an environment of its own in build/peers, with the versions of requirements/NAME.txt and nothing else of
its dependencies, because many pin versions that exclude each other. PyTorch and what the engine has are borrowed from
the environment that runs this, so that every contender runs on the very same PyTorch. A peer that cannot be installed
is reported and left out.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / "build" / "peers"
OWN = ("engine", "plain", "plain_autocast")
"""Contenders that run in the environment of whoever starts them."""
PEERS = tuple(sorted(path.stem for path in (HERE / "requirements").glob("*.txt")))


def python_of(name: str) -> Path:
    """The interpreter that runs a contender."""
    return Path(sys.executable) if name in OWN else ENVIRONMENTS / name / "bin" / "python"


def start(name: str, **options) -> subprocess.Popen:
    """The contender's driver, with its requests and answers as pipes of text."""
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": options.pop("threads", "1")}
    return subprocess.Popen(
        [str(python_of(name)), str(HERE / "driver.py"), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=HERE,
        **options,
    )


def why_missing(name: str) -> str | None:
    """Why a contender cannot run here, in one line; None: it can."""
    if name in OWN:
        return None
    reason = ENVIRONMENTS / name / "reason.json"
    if not python_of(name).exists():
        return "not installed: make peers"
    return json.loads(reason.read_text("utf-8")) if reason.exists() else None


def set_up(name: str) -> str | None:
    """Make a peer's environment anew, and import its driver there; why that does not work, or None."""
    folder = ENVIRONMENTS / name
    venv.EnvBuilder(with_pip=False, clear=True).create(folder)
    borrowed = sysconfig.get_path("purelib")
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(own, "borrowed.pth").write_text(borrowed + "\n", "utf-8")
    install = [sys.executable, "-m", "pip", "--python", str(python_of(name)), "--disable-pip-version-check", "install"]
    install += ["--quiet", "--no-deps", "--requirement", str(HERE / "requirements" / f"{name}.txt")]
    reason = _failure(subprocess.run(install, capture_output=True, text=True))
    if reason is None:
        process = start(name, stderr=subprocess.PIPE)
        answer, errors = process.communicate('{"do": "peak_of_nothing"}\n')
        found = _last_line(json.loads(answer)["error"] if answer else errors)
        reason = None if "peak_of_nothing" in found else found
    if reason is not None:
        (folder / "reason.json").write_text(json.dumps(reason), "utf-8")
    return reason


def _failure(run: subprocess.CompletedProcess) -> str | None:
    return None if run.returncode == 0 else _last_line(run.stderr)


def _last_line(text: str) -> str:
    """What a failure says at its end, without the places of files on this machine."""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it failed and said nothing")
    return re.sub(r" ?\(?/[^\s)]+\)?", "", last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=PEERS, metavar="NAME", help=f"of {', '.join(PEERS)}; default all")
    names = parser.parse_args().names
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        parser.error(f"NAME: got {', '.join(unknown)}; allowed: {', '.join(PEERS)}")
    for name in names:
        print(f"{name}: {set_up(name) or 'ready'}", flush=True)


if __name__ == "__main__":
    main()
