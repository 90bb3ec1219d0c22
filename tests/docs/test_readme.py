"""The README's tables are what the committed results give."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_holds_the_measured_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "report", raising=False)
    import report

    tables = report.readme_tables()
    assert tables.keys() == {"kernels", "loading", "step"}
    readme = (ROOT / "README.md").read_text("utf-8")
    assert report.fill(readme, tables) == readme, "run python benchmarks/report.py --readme"
