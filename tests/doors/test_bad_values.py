"""Every setting of training met with values of the wrong kind, and files of settings of every bad kind."""

import pytest

from act_engine import train
from act_engine.config.help import settings_of

WRONG = {
    int: ("ten", "1.5", "nan", "inf", "1/0", "1e999"),
    float: ("ten", "nan", "inf", "1/0", "-inf"),
    bool: ("maybe",),
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "duplicate group": b"attack: {steps: 3}\nattack: {eps: 0.1}",
    "duplicate setting": b"attack: {steps: 3, steps: 4}",
    "bomb": BOMB.encode(),
    "alias in itself": b"attack: &a {eps: *a}",
    "UTF-16": "attack: {steps: 3}".encode("utf-16"),
    "Latin-1": "model: {name: m\u00fcller}".encode("latin-1"),
    "NUL": b"attack: {steps: 3}\0",
    "deep": b"[" * 5000,
    "large": b"# " + b"x" * 2**20,
    "a tag": b"attack: !!python/object/apply:os.system [id]",
    "a date of no day": b"attack: {steps: 2020-13-45}",
    "unhashable name": b"? [1]\n: 2",
    "text": b"hello",
    "tab": b"attack:\n\tsteps: 3",
}


def kinds(setting):
    return [kind for kind in WRONG if setting.kind in (kind, kind | None)]


CASES = [
    (setting.name, value)
    for setting in settings_of(train.Arguments)
    for kind in kinds(setting)
    for value in WRONG[kind]
    if "." in setting.name
]


def refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        train.main([*arguments, "--output", str(tmp_path / "run")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 1200
    assert not (tmp_path / "run").exists()
    return error


@pytest.mark.parametrize(("name", "value"), CASES)
def test_value_of_the_wrong_kind(name, value, tmp_path, capsys):
    error = refused(["--recipe", "digits", f"--{name}={value}"], tmp_path, capsys)
    assert name in error
    assert repr(value) in error


@pytest.mark.parametrize("case", FILES)
def test_file_of_settings(case, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_bytes(FILES[case])
    assert "bad.yaml" in refused(["--config", str(tmp_path / "bad.yaml")], tmp_path, capsys)


def test_byte_order_mark_is_no_mistake(tmp_path, capsys):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfattack: {steps: 3}")
    assert train.main(["--config", str(tmp_path / "bom.yaml"), "--print-config"]) == 0
    assert "steps: 3" in capsys.readouterr().out
