"""Every command that takes its time shows how far it is, unless it is asked not to."""

import pytest

from act_engine import analyze, evaluate, report, train

WORDS = ["--recipe", "digits", "--train.max_steps", "1", "--attack.steps", "1", "--train.progress", "none"]
QUICK = ["--evaluate.images", "20", "--evaluate.steps", "1", "--evaluate.restarts", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("progress") / "run"
    assert train.main([*WORDS, *QUICK, "--output", str(folder)]) == 0
    return str(folder)


def test_each_command_shows_how_far_it_is(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    commands = [
        (evaluate, [run, "--images", "10"], "evaluating 20/20 images"),
        (report, [run, "--samples", "8"], "attack steps/s"),
        (analyze, [run, "--analyses", "compression", "--output", str(tmp_path)], "measuring 1/1 analysis"),
    ]
    for door, words, expected in commands:
        assert door.main([*words, "--progress", "lines"]) == 0
        assert expected in capsys.readouterr().err
        assert door.main([*words, "--progress", "none"]) == 0
        assert capsys.readouterr().err == ""
