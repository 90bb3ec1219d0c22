"""Write the committed studies' tables and plots into the documents: ``python docs/tables.py``."""

import json
from pathlib import Path

from act_engine.studies.protocol import STUDIES
from act_engine.studies.show import accuracy_table, analysis_table, plot_study

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


def documents(results: Path = RESULTS) -> dict[Path, dict[str, str]]:
    """The generated parts of each document, by name."""
    return {
        ROOT / "docs" / "studies.md": {"studies": section(results)},
        ROOT / "README.md": {"results": short(results)},
    }


def section(results: Path) -> str:
    """Every study that has a result, in the order of `STUDIES`."""
    parts = []
    for name in STUDIES:
        file = results / f"{name}.json"
        if file.exists():
            result = json.loads(file.read_text("utf-8"))
            parts.append(accuracy_table(result))
            parts.append(f"![{name}: clean against robust accuracy](results/{name}.png)")
            parts.append(
                f"<details><summary>{name}: the three analyses</summary>\n\n{analysis_table(result)}\n\n</details>"
            )
    return "\n\n".join(parts) or "No study has been run in full yet: no result is claimed."


def short(results: Path) -> str:
    """The digits' table of accuracies."""
    file = results / "digits.json"
    return (
        accuracy_table(json.loads(file.read_text("utf-8"))) if file.exists() else "No study has been run in full yet."
    )


def fill(text: str, parts: dict[str, str]) -> str:
    """`text` with each part between its comments."""
    for name, part in parts.items():
        before, rest = text.split(f"<!-- begin {name} -->\n", 1)
        _, after = rest.split(f"<!-- end {name} -->", 1)
        text = f"{before}<!-- begin {name} -->\n{part}\n<!-- end {name} -->{after}"
    return text


if __name__ == "__main__":
    for file in RESULTS.glob("*.json"):
        file.with_suffix(".png").write_bytes(plot_study(json.loads(file.read_text("utf-8"))))
    for document, parts in documents().items():
        document.write_text(fill(document.read_text("utf-8"), parts), "utf-8")
