"""The file of parallel.deepspeed_config: what may stand in it, and what a mistake in it is told."""

import pytest

pytest.importorskip("deepspeed")

from act_engine.learners.zero import read_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", ["as JSON"]),
        ("[]", ["not a mapping", "zero_optimization"]),
        ('{"optimizer": {}}', ["optimizer", "zero_optimization"]),
        ('{"zero_optimization": {"stage": 3}}', ["zero_optimization stage", "parallel"]),
        ('{"zero_optimization": {"reduce_bucket": 1}}', ["zero_optimization", "reduce_bucket"]),
        ('{"zero_optimization": {"reduce_bucket_size": "many"}}', ["reduce_bucket_size", "integer"]),
    ],
)
def test_mistake(text, expected, tmp_path):
    path = tmp_path / "deepspeed.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^parallel\.deepspeed_config: ") as raised:
        read_settings(str(path))
    assert "\n" not in str(raised.value)
    for part in (str(path), *expected):
        assert part in str(raised.value)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match=r"parallel\.deepspeed_config: .*No such file"):
        read_settings(str(tmp_path / "nowhere.json"))


def test_what_is_allowed_comes_back(tmp_path):
    path = tmp_path / "deepspeed.json"
    path.write_text('{"zero_optimization": {"reduce_bucket_size": 1000}}')
    assert read_settings(str(path)) == {"zero_optimization": {"reduce_bucket_size": 1000}}
    assert read_settings(None) == {}
