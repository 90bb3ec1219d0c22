"""Is this installation sound: what is installed, which kernels serve, whether they and a training step are right."""

from act_engine.checkup.finding import Finding, format_page
from act_engine.checkup.installed import NEEDS, examine_kernels, examine_machine, examine_packages
from act_engine.checkup.self_test import try_kernels, try_training

__all__ = [
    "NEEDS",
    "Finding",
    "examine_kernels",
    "examine_machine",
    "examine_packages",
    "format_page",
    "try_kernels",
    "try_training",
]
