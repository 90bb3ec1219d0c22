"""Is this installation sound: ``python -m act_engine.doctor``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from act_engine.config.command_line import read_options, user_errors


@dataclass(frozen=True)
class Arguments:
    """Show on one page what is installed, which kernels serve and why not others, and whether they compute right.

    What is missing or wrong is followed by the command that mends it. The exit code is 1 where something is wrong;
    what is merely missing is not.
    """

    test: bool = True
    """Try the kernels and a few training steps, some seconds long."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with user_errors():
        options = read_options(Arguments, sys.argv[1:] if argv is None else argv, "python -m act_engine.doctor")
    # After the arguments: a typo need not wait for torch.
    import torch

    from act_engine import checkup

    parts = {
        "installed": checkup.examine_packages(),
        "devices": checkup.examine_machine(),
        "kernels": checkup.examine_kernels(),
    }
    if options.get("test", Arguments.test):
        devices = [torch.device(kind) for kind in ("cpu", "cuda") if kind == "cpu" or torch.cuda.is_available()]
        parts["self-test"] = [finding for device in devices for finding in checkup.try_kernels(device)]
        parts["self-test"] += [checkup.try_training(device) for device in devices]
    print(checkup.format_page(parts))
    findings = [finding for part in parts.values() for finding in part]
    wrong, lacking = (sum(finding.state == state for finding in findings) for state in ("FAILS", "lacks"))
    print(f"\n{'sound' if not wrong else f'{wrong} of these fail'}; {lacking or 'nothing'} lacking")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
