"""The commands as a user types them."""

import json
import subprocess
import sys


def command(*words, cwd):
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_torchrun_trains_and_evaluates(tmp_path):
    torchrun = ["-m", "torch.distributed.run"]
    settings = ["--train.epochs", "1", "--train.max_steps", "2", "--evaluate.steps", "2", "--evaluate.restarts", "1"]
    words = ["-m", "act_engine.train", "--recipe", "digits", "--output", "run", *settings]
    result = command(*torchrun, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "robust" in result.stdout
    assert "natural" in result.stdout
    result = command(*torchrun, "-m", "act_engine.evaluate", "run", "--steps", "3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["attack"]["steps"] == 3


IMPORT_ALL = """
import importlib, pkgutil, sys
import act_engine, act_kernels, torch
for package in (act_engine, act_kernels):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.startswith("act_kernels._"):  # libraries of ops, which are no Python modules
            importlib.import_module(module.name)
assert not torch.cuda.is_initialized()
optional = {"nvidia.dali", "deepspeed", "timm", "torchvision", "pyautoattack", "matplotlib", "sklearn"}
heavy = optional & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_any_module_is_silent_and_loads_no_optional_package(tmp_path):
    result = command("-c", IMPORT_ALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr == ""


def test_a_users_mistake_shows_no_stack_trace(tmp_path):
    result = command("-m", "act_engine.train", "--recipe", "digit", "--output", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "did you mean 'digits'" in result.stderr
