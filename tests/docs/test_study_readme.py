"""The README's studies are what the committed results give."""

import json
import sys
from pathlib import Path

from PIL import Image

from act_engine.studies.show import plotted_digest

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_holds_the_committed_studies(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "tables", raising=False)
    import tables

    text = (ROOT / "README.md").read_text("utf-8")
    part = tables.section()
    assert tables.fill(text, part) == text, "run python docs/tables.py"
    for result in tables.RESULTS.glob("*.json"):
        with Image.open(result.with_suffix(".png")) as plot:
            assert plot.text["Description"] == plotted_digest(json.loads(result.read_text("utf-8")))
        assert f"docs/results/{result.stem}.png" in part
    assert tables.section(tmp_path) != part or not list(tables.RESULTS.glob("*.json"))
