"""Options and the one `bench` of a run. At its end the tables of docs/performance.md are printed for what it measured,
in the place of pytest-benchmark's own, which knows no contenders; --save-results writes the results too."""

import datetime
import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from measure import Bench
from report import run_summary

_RESULTS = Path(__file__).parent / "results"
_RUN = pytest.StashKey[Bench]()


def pytest_addoption(parser):
    group = parser.getgroup("act_kernels")
    group.addoption("--large", action="store_true", help="also the sizes that take minutes on a CPU")
    group.addoption(
        "--rounds", type=int, help="timed calls of each contender (default 30; of whole steps and peers less)"
    )
    group.addoption("--save-results", action="store_true", help="write benchmarks/results/DEVICE/TIME.json")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def bench(request, device) -> Bench:
    request.config.stash[_RUN] = Bench(device, request.config.getoption("--rounds") or 30)
    return request.config.stash[_RUN]


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--large"):
        skip = pytest.mark.skip(reason="large: run with --large")
        for item in items:
            if item.get_closest_marker("large"):
                item.add_marker(skip)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if config.getoption("--save-results") and config.getoption("--benchmark-disable"):
        raise pytest.UsageError("--save-results has nothing to save with --benchmark-disable: leave one of them out")
    config.addinivalue_line("markers", "large: takes minutes on a CPU")
    config.option.benchmark_quiet = True


def pytest_terminal_summary(terminalreporter, config):
    run = config.stash.get(_RUN, None)
    if run is not None and run.rows:
        terminalreporter.write_line("")
        terminalreporter.write_line(run_summary(_record(run, config)))


def pytest_sessionfinish(session):
    run = session.config.stash.get(_RUN, None)
    if run is None or not run.rows or not session.config.getoption("--save-results"):
        return
    record = _record(run, session.config)
    folder = _RESULTS / re.sub(r"[^a-z0-9]+", "-", record["device"].lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.datetime.fromisoformat(record['time']):%Y%m%d-%H%M%S}.json"
    rows = ",\n    ".join(json.dumps(row) for row in record.pop("rows"))
    path.write_text(json.dumps(record, indent=2)[:-2] + f',\n  "rows": [\n    {rows}\n  ]\n}}\n')


def _record(run: Bench, config: pytest.Config) -> dict[str, Any]:
    """What is kept of a run: where, when and with what it was, and its rows."""
    return {
        "device": _device_name(run.device),
        "threads": torch.get_num_threads() if run.device.type == "cpu" else None,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": "pytest " + " ".join(config.invocation_params.args),
        "rows": [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in run.rows],
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    from act_engine.models.side_by_side import has_amx
    from act_kernels import native

    parts = [_maker(), platform.machine(), native.instruction_set()] + ["amx"] * has_amx()
    return f"{' '.join(parts)} {torch.get_num_threads()} threads"


def _maker() -> str:
    """Who made the processor: two makers' figures are kept apart."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "unknown")
    return {"AuthenticAMD": "AMD", "GenuineIntel": "Intel"}.get(vendor, vendor)
