"""What a check found, and the page that shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    name: str
    state: Literal["ok", "lacks", "FAILS"]
    """lacks: something is not there, and all else works without it; FAILS: something is there, and wrong."""
    text: str
    mend: str | None = None
    """The command, or the sentence, that mends it."""


def format_page(parts: Mapping[str, Sequence[Finding]]) -> str:
    """The findings of each part under its title, with what mends each that is not ok below it."""
    lines = []
    for title, findings in parts.items():
        width = max(len(finding.name) for finding in findings)
        lines += ["", title]
        for finding in findings:
            lines.append(f"  {finding.state:<5}  {finding.name:<{width}}  {finding.text}")
            if finding.mend is not None:
                lines.append(f"         {'':<{width}}  → {finding.mend}")
    return "\n".join(lines[1:])
