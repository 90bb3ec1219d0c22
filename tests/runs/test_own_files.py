"""The engine's own files, mutated: what comes out is their content or the one-line error that names the file."""

import json
from contextlib import contextmanager

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from act_engine.config import from_mapping, read_recipe, read_yaml, to_mapping
from act_engine.reporting.html import details, paragraph, table
from act_engine.runs.folder import measured_once
from act_engine.runs.reading import read_json, read_records
from act_engine.training import checkpoint

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONFIG = yaml.safe_dump(to_mapping(from_mapping(read_recipe("digits"))), sort_keys=False).encode()
EVALUATION = json.dumps({"models": {"robust": {"clean_accuracy": 0.5}}, "samples": 500, "attack": None}).encode()
METRICS = b"".join(json.dumps({"step": step, "lr": 0.1, "robust_loss": 2.3}).encode() + b"\n" for step in range(1, 9))
"""Real files of a run, in small."""


@st.composite
def mutated(draw, original):
    """The bytes of a file with some of them replaced, cut out or doubled."""
    content = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(content)))
        last = draw(st.integers(first, min(len(content), first + 40)))
        content[first:last] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(content[first:last]) * 2)))
    return bytes(content)


def save(root, step):
    return checkpoint.save(root, step, {"robust": {"weight": torch.ones(3)}}, {"step": step}, keep=2)


def one_line(error, name):
    return name in str(error) and "\n" not in str(error) and len(str(error)) < 1000


@contextmanager
def refused_in_a_line(name):
    """A ValueError in the block is well, if it is a line with that name in it; no other error is."""
    try:
        yield
    except ValueError as error:
        if not one_line(error, name):
            raise


@FUZZ
@given(content=mutated(CONFIG))
def test_config(content, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    with refused_in_a_line("config.yaml"):
        values = read_yaml(tmp_path / "config.yaml")
        with refused_in_a_line(""):
            from_mapping(values)


@FUZZ
@given(content=mutated(EVALUATION))
def test_json(content, tmp_path):
    (tmp_path / "evaluation.json").write_bytes(content)
    with refused_in_a_line("evaluation.json"):
        assert "models" in read_json(tmp_path / "evaluation.json", ("models",))


@FUZZ
@given(content=mutated(METRICS))
def test_metrics(content, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    for record in read_records(tmp_path / "metrics.jsonl"):
        assert type(record["step"]) is int


@FUZZ
@given(data=st.data())
def test_manifest(data, tmp_path):
    folder = tmp_path / "step-1"
    if not (tmp_path / "whole").exists():
        save(tmp_path, 1)
        (tmp_path / "whole").write_bytes((folder / "manifest.json").read_bytes())
    whole = (tmp_path / "whole").read_bytes()
    content = data.draw(mutated(whole))
    (folder / "manifest.json").write_bytes(content)
    fault = checkpoint.verify(folder)
    assert fault is None or one_line(fault, "")
    if fault is None:
        assert json.loads(content) == json.loads(whole)


@pytest.mark.parametrize("name", ["/etc/passwd", "../state.json", "a/../state.json", ".."])
def test_manifest_of_files_elsewhere(name, tmp_path):
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, name: "0" * 64}))
    assert "is no file of it" in checkpoint.verify(folder)


def test_torn_and_strange_lines_of_metrics_are_passed_over(tmp_path):
    lines = [
        b'{"step": 1, "lr": 0.1}',
        b"\0\0\0",
        b"[1]",
        b'{"step": "2"}',
        b'{"lr": 1}',
        b'{"step": 3}',
        b'{"step": 4',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [1, 3]


def test_torn_measurement_is_made_anew(tmp_path):
    for text in ('{"of"', "[]", "{}", "\0"):
        (tmp_path / "sweeps.json").write_text(text)
        assert measured_once(tmp_path / "sweeps.json", {"seed": 1}, lambda: [1, 2]) == [1, 2]


def test_report_escapes_whatever_it_is_given():
    script = "<script>alert(1)</script>"
    for page in (paragraph(script, script), details(script, script), table([script], [[script, script]])):
        assert "<script>" not in page
