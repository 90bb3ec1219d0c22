"""Every target of the Makefile can be made: its rules are read and its recipes are found."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"bench", "clean", "docs", "gpu-bench", "gpu-check", "lint", "sanitize", "setup", "study", "test", "train"}


def test_every_target_has_a_recipe():
    text = (ROOT / "Makefile").read_text("utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    assert phony >= TARGETS
    for target in sorted(phony - {"study-cifar10", "study", "setup"}):  # two ask for data, one may be done
        result = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert "Nothing to be done" not in result.stdout, target
