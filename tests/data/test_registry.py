"""The data sets by name: built in, and from packages that are installed."""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path

import pytest

from act_engine import train
from act_engine.config import DataConfig
from act_engine.data import build_data, data_facts, find_source, sources

PLUG_IN = textwrap.dedent(
    """
    import numpy as np
    from act_engine.data import Facts, Pictures, Source, Splits

    def squares(seed: int, path: str | None) -> Splits:
        random = np.random.default_rng(seed)
        labels = np.arange(40) % 2
        images = np.zeros((40, 8, 8, 1), np.uint8)
        images[labels == 1, 2:6, 2:6] = 200
        images += random.integers(0, 50, images.shape, dtype=np.uint8)
        part = Pictures(images, labels)
        return Splits(part.keep(np.arange(30)), part.keep(np.arange(30, 40)), 2, classes=("empty", "full"))

    SOURCE = Source("squares", squares, Facts(30, 2, (1, 8, 8)))
    BROKEN = Source("digits", squares)
    """
)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs the package with one entry point, as pip would lay it out."""

    def put(entry: str) -> None:
        (tmp_path / "squares_data.py").write_text(PLUG_IN)
        described = tmp_path / "squares_data-1.0.dist-info"
        described.mkdir(exist_ok=True)
        (described / "METADATA").write_text("Metadata-Version: 2.1\nName: squares-data\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(f"[act_engine.data]\n{entry}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


def test_a_data_set_from_a_package_trains(install, tmp_path: Path):
    install("squares = squares_data:SOURCE")
    assert list(sources())[-1] == "squares"
    assert data_facts("squares") == (30, 2, (1, 8, 8))
    settings = "{objective: {name: natural}, data: {name: squares, batch_size: 10}, evaluate: {attack: none}, "
    settings += "optim: {schedule: constant}, train: {epochs: 1, device: cpu}}"
    (tmp_path / "run.yaml").write_text(settings)
    assert train.main(["--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run/data.json").read_text())["train"]["classes"] == ["empty", "full"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("squares = squares_data:NOTHING", r"'squares' \(squares_data:NOTHING\) cannot be loaded"),
        ("squares = squares_data:squares", "allowed: an act_engine.data.Source"),
        ("digits = squares_data:BROKEN", "with a name of its own"),
    ],
)
def test_a_package_that_does_not_fit_is_named(install, entry: str, words: str):
    install(entry)
    with pytest.raises(ValueError, match=rf"data\.name: .*{words}"):
        sources()


@pytest.mark.parametrize("name", sources())
def test_a_source_has_settings_that_exist(name: str):
    """Each is a keyword of `build_data`, and, unless the run decides it, a setting that a user can give."""
    source = find_source(name)
    assert source.settings <= inspect.signature(build_data).parameters.keys()
    own = source.settings - {"num_classes", "train", "class_names"}
    assert own <= set(DataConfig.__dataclass_fields__)


@pytest.mark.parametrize("name", sources())
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("path", "somewhere"),
        ("download", True),
        ("bad_images", "skip"),
        ("holdout", 0.1),
        ("index", "off"),
        ("image_size", 64),
        ("eval_resize", 300),
        ("train_sizes", (32, 64)),
        ("train_size_epochs", (1,)),
        ("decode", "cpu"),
    ],
)
def test_a_setting_that_a_data_set_does_not_have_is_refused(name: str, setting: str, value: object):
    if setting in find_source(name).settings:
        return
    with pytest.raises(ValueError, match=rf"data\.{setting}: got .*for {name} has no such setting"):
        build_data(name, batch_size=4, **{setting: value})
