"""Write the committed studies' tables into the README, and their plots: ``python docs/tables.py``."""

import json
from pathlib import Path

from act_engine.studies.protocol import STUDIES
from act_engine.studies.show import accuracy_table, analysis_table, plot_study

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BEGIN, END = "<!-- begin studies -->\n", "<!-- end studies -->"


def section(results: Path = RESULTS) -> str:
    """The README's part: every study that has a result, in the order of `STUDIES`."""
    parts = []
    for name in STUDIES:
        file = results / f"{name}.json"
        if file.exists():
            result = json.loads(file.read_text("utf-8"))
            parts.append(accuracy_table(result))
            parts.append(f"![{name}: clean against robust accuracy](docs/results/{name}.png)")
            parts.append(
                f"<details><summary>{name}: the three analyses</summary>\n\n{analysis_table(result)}\n\n</details>"
            )
    return "\n\n".join(parts) or "No study has been run in full yet: no result is claimed."


def fill(text: str, part: str) -> str:
    """`text` with `part` between its comments."""
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}{part}\n{END}{after}"


if __name__ == "__main__":
    for file in RESULTS.glob("*.json"):
        file.with_suffix(".png").write_bytes(plot_study(json.loads(file.read_text("utf-8"))))
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text("utf-8"), section()), "utf-8")
