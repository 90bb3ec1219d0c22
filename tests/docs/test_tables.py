"""The documents' tables are what the committed results give; their links lead somewhere; the README is short."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from act_engine.studies.show import plotted_digest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "kernels/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(params=["benchmarks/report.py", "docs/tables.py"])
def generator(request, monkeypatch):
    path = ROOT / request.param
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module(path.stem)


def test_the_documents_hold_the_committed_results(generator):
    for document, parts in generator.documents().items():
        assert all(len(part) > 50 for part in parts.values())
        text = document.read_text("utf-8")
        assert generator.fill(text, parts) == text, "run python benchmarks/report.py --docs; python docs/tables.py"


def test_the_studies_plots_are_of_their_results():
    results = list((ROOT / "docs" / "results").glob("*.json"))
    assert len(results) >= 3
    text = (ROOT / "docs" / "studies.md").read_text("utf-8")
    for result in results:
        with Image.open(result.with_suffix(".png")) as plot:
            assert plot.text["Description"] == plotted_digest(json.loads(result.read_text("utf-8")))
        assert f"results/{result.stem}.png" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
