"""The page of promises names the tests that hold them, and they are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_names_tests_that_exist():
    rows = re.findall(r"^\| (.+) \| (.+) \|$", (ROOT / "docs/reliability.md").read_text("utf-8"), re.M)
    promises = [row for row in rows if row[0] != "promise" and not row[0].startswith("---")]
    assert len(promises) > 10
    for promise, tests in promises:
        named = re.findall(r"`(tests/[^`]+)`", tests)
        assert named, promise
        for name in named:
            files = [ROOT / name] if name.endswith(".py") else [*(ROOT / name).glob("test_*.py")]
            assert any(file.is_file() and "def test_" in file.read_text("utf-8") for file in files), name
