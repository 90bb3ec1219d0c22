"""The native extension; the rest of the package is in pyproject.toml. csrc/extension.py says what is built."""

import importlib.util
from pathlib import Path

from setuptools import setup

_HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("act_extension", _HERE / "csrc" / "extension.py")
_extension = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_extension)

setup(**_extension.extension_arguments(_HERE))
