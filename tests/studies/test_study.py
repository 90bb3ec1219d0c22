"""A study: equal budgets, a search that never sees the test images, and results that are kept."""

import dataclasses
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from act_engine import study as door
from act_engine.config import AnalysisConfig, from_mapping, to_mapping
from act_engine.data import build_data
from act_engine.studies.protocol import METHODS, STUDIES, Study, base_config, config_text, configure, in_search
from act_engine.studies.run import choose, decoded, run_study
from act_engine.studies.show import accuracy_table, analysis_table, plot_study

TINY = Study(
    "digits",
    {
        "attack": {"eps": 0.4, "step_size": 0.4, "steps": 1},  # so far that AutoAttack is soon done
        "data": {"batch_size": 64, "train_samples": 256},
        "train": {"device": "cpu"},
        "evaluate": {"steps": 2, "restarts": 1},
    },
    validation_samples=60,
    autoattack_images=10,
    analysis=AnalysisConfig(("compression",), samples=20, draws=1),
)
ACCURACIES = ("clean_accuracy", "robust_accuracy", "autoattack_accuracy")


def test_every_method_has_the_same_budget():
    assert len({len(method.values) for method in METHODS.values()}) == 1
    for method in METHODS.values():
        assert len(set(method.values)) == len(method.values)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("method", METHODS)
def test_methods_differ_from_the_recipe_in_their_own_settings_alone(name: str, method: str):
    base = base_config(STUDIES[name], None)
    texts = set()
    for value in METHODS[method].values:
        config = configure(base, METHODS[method], value, seed=3, ema=0.9)
        assert config.train.seed == 3
        assert config.evaluate == base.evaluate  # measured alike whatever the training's radius is
        assert config.evaluate.eps == base.attack.eps
        assert (config.data, config.model) == (base.data, base.model)
        assert config.attack.step_size / config.attack.eps == pytest.approx(base.attack.step_size / base.attack.eps)
        texts.add(config_text(config))
    assert len(texts) == len(METHODS[method].values)


def test_the_search_measures_held_out_images():
    base = base_config(STUDIES["digits"], None)
    search = in_search(base, 300)
    assert search.data.validation_samples == 300
    assert base.data.validation_samples is None
    assert config_text(search) != config_text(base)
    moved = dataclasses.replace(base, checkpoint=dataclasses.replace(base.checkpoint, keep=9))
    assert config_text(moved) == config_text(base)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    """The folder and result of a tiny study of two methods; started once more, its second result."""
    output = tmp_path_factory.mktemp("study")
    settings = {"methods": ("natural", "madry"), "seeds": 2, "path": None, "epochs": 1, "jobs": 1}
    first = run_study("tiny", TINY, output, **settings)
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.suffix in (".json", ".safetensors")}
    second = run_study("tiny", TINY, output, **settings)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    return output, first, second


def test_a_study_comes_to_its_result(finished):
    output, result, again = finished
    assert again == result
    assert json.loads(json.dumps(result)) == result
    runs = {path.parent: json.loads(path.read_text()) for path in output.glob("*/evaluation.json")}
    assert sorted(run["samples"] for run in runs.values()) == [60] * 8 + [500] * 4
    for method in ("natural", "madry"):
        search = result["search"][method]
        decides = "clean_accuracy" if method == "natural" else "robust_accuracy"
        best = max(row[decides] for row in search["rows"])
        chosen = next(row for row in search["rows"] if row["value"] == search["chosen"])
        assert chosen[decides] == best
        assert [row["seed"] for row in result["test"][method]] == [0, 1]
        for row in result["test"][method]:
            assert row["autoattack_accuracy"] <= 1
            assert any(
                run["models"][name]["clean_accuracy"] == row["clean_accuracy"]
                for run in runs.values()
                for name in run["models"]
                if run["samples"] == 500
            )
        assert len(result["analysis"]["values"][method]) == 2
    assert result["images"] == {"validation": 60, "test": 500, "autoattack": 10}


def test_tables_and_plot_show_the_result(finished):
    _, result, _ = finished
    text = accuracy_table(result)
    for method in ("natural", "madry"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {METHODS[method].label} |"))
        assert f"{result['search'][method]['chosen']:g}" in line
        for name in ACCURACIES:
            mean = sum(100 * row[name] for row in result["test"][method]) / 2
            assert f"| {mean:.1f} ± " in line
    assert "500 test images under PGD-2" in text
    assert "AutoAttack standard on 10 of them" in text
    analyses = analysis_table(result)
    assert "on 20 of the test images" in analyses
    assert "| probe fits random labels, % |" in analyses
    assert "last" not in analyses  # no training on random labels was asked for
    assert plot_study(result).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "STUDY: got None; allowed: digits, textures, cifar10"),
        (["digit"], "did you mean 'digits'"),
        (["digits", "--methods", "act,trade"], "--methods: got 'trade'"),
        (["digits", "--jobs", "0"], "--jobs: got 0; allowed: 1 or more"),
    ],
)
def test_mistakes(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        door.main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_search_takes_the_most_robust_and_of_equals_the_first():
    def evaluations(shares: list[tuple[float, float]]) -> list[dict]:
        return [{"models": {"robust": {"clean_accuracy": c, "robust_accuracy": r}}} for c, r in shares]

    shares = [(0.9, 0.3), (0.8, 0.5), (0.7, 0.5), (0.95, 0.4)]
    assert choose("trades", evaluations(shares))["chosen"] == METHODS["trades"].values[1]
    assert choose("natural", evaluations(shares))["chosen"] == METHODS["natural"].values[3]


def test_cifar_is_decoded_once(tmp_path):
    """Out of the official archive's form: a class a picture, told apart by its brightness."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number, file in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        images = np.repeat(np.arange(10, dtype=np.uint8)[:, None] + 10 * number, 3072, 1)
        (folder / file).write_bytes(pickle.dumps({"data": images, "labels": list(range(10))}))
    base = base_config(STUDIES["cifar10_full"], str(tmp_path / "data"))
    config = decoded(base, tmp_path / "out")
    assert (config.data.name, config.data.augment) == ("npz", "crop_flip")
    written = Path(config.data.path).stat().st_mtime_ns
    assert decoded(base, tmp_path / "out") == config
    assert Path(config.data.path).stat().st_mtime_ns == written
    settings = {"batch_size": 10, "augment": "none"}
    ours, theirs = (build_data(c.data.name, path=c.data.path, **settings) for c in (config, base))
    for mine, original in zip(ours.train.epoch(0), theirs.train.epoch(0), strict=True):
        assert torch.equal(mine.images, original.images)
        assert torch.equal(mine.labels, original.labels)
    assert decoded(base_config(STUDIES["digits"], None), tmp_path / "out").data.name == "digits"
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, path="elsewhere"))
    assert config_text(elsewhere) == config_text(config)


def test_a_killed_study_leaves_no_worker_behind(tmp_path):
    command = [sys.executable, "-m", "act_engine.study", "digits", "--methods", "natural", "--epochs", "500"]
    with (tmp_path / "log").open("wb") as log:
        study = subprocess.Popen([*command, "--output", str(tmp_path / "runs")], stderr=log)
    try:
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):  # until a training is under way
            assert study.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        workers = psutil.Process(study.pid).children()
    finally:
        study.kill()
        study.wait()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_settings_travel_to_the_workers_whole():
    base = base_config(STUDIES["cifar10"], "somewhere")
    for method in METHODS.values():
        config = configure(base, method, method.values[0], 0, 0.99)

        assert from_mapping(json.loads(json.dumps(to_mapping(config)))) == config
