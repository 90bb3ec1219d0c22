"""All commands behind one name: ``act-engine train --recipe digits …``, which is ``python -m act_engine train …``."""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import act_engine
from act_engine.errors import nearest

COMMANDS = ("train", "evaluate", "report", "analyze", "study", "plan", "doctor", "pseudo_label")


def main(argv: Sequence[str] | None = None) -> int:
    """The command that the first word names, with the words after it; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_page())
        return 0
    if words[0] in ("-V", "--version"):
        import act_kernels

        print(f"act-engine {act_engine.__version__}, act-kernels {act_kernels.__version__}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        print(f"error: COMMAND: got {name!r}; allowed: {', '.join(COMMANDS)}{hint}", file=sys.stderr)
        return 2
    return importlib.import_module(f"act_engine.{name}").main(words[1:])


def _page() -> str:
    lines = ["usage: act-engine COMMAND [--SETTING VALUE …]", ""]
    for name in COMMANDS:
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text("utf-8"))  # not imported: some load torch
        lines.append(f"  {name:<12}  {(ast.get_docstring(tree) or '').partition(':')[0]}")
    lines += ["", "act-engine COMMAND --help: its settings; act-engine --version: the versions."]
    lines += ["On several GPUs: torchrun --nproc-per-node N -m act_engine.train …"]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
