"""``act-engine COMMAND`` is ``python -m act_engine.COMMAND``."""

import subprocess
import sys
from importlib import import_module, resources

import pytest

import act_engine
import act_kernels
from act_engine.__main__ import COMMANDS, main


def test_the_page_names_every_door(capsys):
    package = resources.files("act_engine")
    doors = {f.name.removesuffix(".py") for f in package.iterdir() if f.name.endswith(".py")} - {"__init__", "__main__"}
    assert set(COMMANDS) == doors
    for words in ([], ["--help"]):
        assert main(words) == 0
        page = capsys.readouterr().out
        for name in COMMANDS:
            about = import_module(f"act_engine.{name}").__doc__.partition(":")[0]
            assert f"  {name:<12}  {about}\n" in page


def test_a_command_gets_the_words_after_it(capsys):
    assert main(["train", "--recipe", "digits", "--print_config"]) == 0
    assert "attack:\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate"])
    assert "RUN: " in capsys.readouterr().err
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: COMMAND: got 'trian'; allowed: train, ")
    assert "did you mean 'train'?" in error


def test_versions():
    command = [sys.executable, "-m", "act_engine", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"act-engine {act_engine.__version__}, act-kernels {act_kernels.__version__}\n"


def test_both_packages_carry_their_types():
    for package in (act_engine, act_kernels):
        assert resources.files(package).joinpath("py.typed").is_file()
