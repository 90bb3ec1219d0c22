"""The README's studies are what the committed results give."""

import json
import sys
from pathlib import Path

from PIL import Image

from act_engine.studies.show import plotted_digest

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_holds_the_committed_studies(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    monkeypatch.delitem(sys.modules, "readme", raising=False)
    import readme

    text = (ROOT / "README.md").read_text("utf-8")
    part = readme.section()
    assert readme.fill(text, part) == text, "run python studies/readme.py"
    for result in readme.RESULTS.glob("*.json"):
        with Image.open(result.with_suffix(".png")) as plot:
            assert plot.text["Description"] == plotted_digest(json.loads(result.read_text("utf-8")))
        assert f"studies/results/{result.stem}.png" in part
    assert readme.section(tmp_path) != part or not list(readme.RESULTS.glob("*.json"))
