"""``--help`` and the parser are one program: what the pages show can be typed, and what is typed is understood."""

import dataclasses
import shutil
import subprocess
import sys

import pytest
import yaml

from act_engine import analyze, doctor, evaluate, plan, report, study, train
from act_engine.config import from_mapping, read_recipe, to_mapping
from act_engine.config.command_line import COMMON, read_options
from act_engine.config.help import settings_of, shown

DOORS = (train, evaluate, analyze, report, study, plan, doctor)


def page(door, *words, capsys):
    with pytest.raises(SystemExit) as exit_:
        door.main(list(words))
    captured = capsys.readouterr()
    return exit_.value.code, captured.out + captured.err


def test_the_short_page_has_the_most_used_settings_with_the_recipes_values(capsys):
    code, text = page(train, "--recipe", "digits", "--help", "--optim.lr", "1/8", capsys=capsys)
    assert code == 0
    assert 20 <= text.count("\n") <= 32
    assert len(COMMON) == 10
    recipe = to_mapping(from_mapping(read_recipe("digits")))
    for name in set(COMMON) - {"optim.lr"}:
        group, setting = name.split(".")
        assert f"  --{name} {shown(recipe[group][setting])} " in text
    assert "  --optim.lr 0.125 " in text
    assert "the values of digits" in text
    assert "--attack.eps 8/255 " in page(train, "-h", capsys=capsys)[1]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("width", [50, 100])
def test_every_page_keeps_to_the_terminal(door, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert shutil.get_terminal_size().columns == width
    for topic in ([], ["all"]):
        code, text = page(door, "--help", *topic, capsys=capsys)
        assert code == 0
        text = text.split("objectives (--objective.name)")[0]  # its lines are of one width
        assert max(map(len, text.splitlines())) <= width
        for setting in settings_of(door.Arguments):
            assert setting.text, f"{setting.name} has no explanation"
            if topic and not setting.positional:
                assert f"--{setting.name} " in " ".join(text.split())


def test_a_topic_is_a_group_or_a_setting(capsys):
    code, text = page(train, "--help", "attack", "--recipe", "digits", capsys=capsys)
    assert code == 0
    assert "--attack.norm linf|l2  [linf]" in text
    assert "--attack.eps NUMBER  [0.15]" in text
    assert "--optim." not in text
    _, text = page(train, "--help", "weight_decay", capsys=capsys)
    assert text.splitlines()[1].startswith("  --optim.weight_decay NUMBER")
    code, text = page(train, "--help", "atack", capsys=capsys)
    assert code == 2
    assert "--help: got 'atack'; allowed: objective, attack," in text
    assert "did you mean 'attack'?" in text


def test_the_value_shown_is_a_value_that_can_be_typed():
    for door in (train, evaluate, analyze, report, study, doctor):
        for setting in settings_of(door.Arguments):
            if setting.positional or isinstance(setting.default, dict):
                continue
            words = [f"--{setting.name}", shown(setting.default)]
            assert read_options(door.Arguments, words, "door") == {setting.name: setting.default}


@dataclasses.dataclass(frozen=True)
class Door:
    runs: tuple[str, ...] = dataclasses.field(default=(), metadata={"positional": True})
    sigmas: tuple[float, ...] = ()
    analyses: tuple[str, ...] = ()
    again: bool = False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sigmas", "0", "0.1"], {"sigmas": (0.0, 0.1)}),
        (["--sigmas", "0,1/4", "0.5", "runs/a"], {"sigmas": (0.0, 0.25, 0.5), "runs": ("runs/a",)}),
        (["--sigmas=0,0.1", "--again"], {"sigmas": (0.0, 0.1), "again": True}),
        (["--sigmas", "none"], {"sigmas": ()}),
        (
            ["a", "b", "--analyses", "flatness", "complexity"],
            {"runs": ("a", "b"), "analyses": ("flatness", "complexity")},
        ),
        (["--analyses", "flatness", "a", "b"], {"runs": ("a", "b"), "analyses": ("flatness",)}),
    ],
)
def test_a_list_is_words_or_commas(words, expected):
    assert read_options(Door, words, "door") == expected


def test_forms_that_the_doors_document():
    assert read_options(plan.Arguments, ["--gpus", "1", "8"], "plan") == {"gpus": (1, 8)}
    assert read_options(analyze.Arguments, ["a", "--noise", "none"], "analyze") == {"runs": ("a",), "noise": ()}


def test_a_setting_without_its_group_is_suggested_with_it(capsys):
    for word, names in (
        ("--lr", "'optim.lr'"),
        ("--eps", "'attack.eps' or 'evaluate.eps'"),
        ("--epochs", "'train.epochs'"),
    ):
        code, text = page(train, word, "1", capsys=capsys)
        assert code == 2
        assert f"{word}: unknown option; did you mean {names}?" in text


def test_print_config_is_the_runs_config(capsys):
    assert train.main(["--recipe", "digits", "--print-config", "--attack.eps", "4/255"]) == 0
    config = from_mapping(yaml.safe_load(capsys.readouterr().out))
    assert config == from_mapping({"attack": {"eps": 4 / 255}}, from_mapping(read_recipe("digits")))


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "act_engine.train", "--recipe", "digits", "--print_config"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()
