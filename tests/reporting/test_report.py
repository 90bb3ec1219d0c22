"""The report: what it measures, what it says, and that a real browser shows it whole."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from act_engine import evaluate as evaluate_door
from act_engine import report as door
from act_engine.config import from_mapping
from act_engine.evaluation import PGDAttack, wilson
from act_engine.parallel import connect
from act_engine.reporting.measure import EPS_FACTORS, STEPS, choose, make_examples, measure_run, measure_sweeps
from act_engine.reporting.page import write_report
from act_engine.training.trainer import Trainer

SHARED = {"robust-against-eps.png", "robust-against-steps.png", "time.png", "robust-loss.png", "natural-loss.png"}
SHARED |= {"lr.png", "speed.png", "waiting.png"}
EXAMPLES = 8


class Threshold(nn.Module):
    """Says class 1 where the mean pixel is above one half: an image is robust if it lies further than eps from that."""

    def forward(self, images):
        score = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1)


def test_sweeps_of_a_model_of_known_robustness():
    means = torch.tensor([0.45, 0.465, 0.515, 0.565, 0.61, 0.9])
    images = means.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    sweeps = measure_sweeps(Threshold(), images, (means > 0.5).long(), PGDAttack(0.04, 0.01, 20, 1), seed=0)
    assert sweeps["samples"] == 6
    expected = [int(((means - 0.5).abs() > factor * 0.04).sum()) for factor in EPS_FACTORS]
    assert [row["right"] for row in sweeps["eps"]] == expected == [6, 6, 5, 5, 4, 3, 2, 1, 1]
    assert [row["at"] for row in sweeps["eps"]] == [factor * 0.04 for factor in EPS_FACTORS]
    assert [(row["at"], row["right"]) for row in sweeps["steps"]] == [(steps, 4) for steps in STEPS]


def test_examples_are_within_the_ball_and_say_what_the_model_says():
    images = torch.tensor([0.4, 0.49]).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    examples = make_examples(Threshold(), images, torch.tensor([0, 0]), PGDAttack(0.05, 0.01, 20, 1), seed=0)
    assert examples.shown.tolist() == [1, 0], "the fooled one first"
    changes = (examples.adversarial - examples.images).abs().amax((1, 2, 3))
    torch.testing.assert_close(changes, torch.tensor([0.05, 0.05]))
    assert examples.clean_class.tolist() == [0, 0]
    assert examples.adversarial_class.tolist() == [0, 1]
    probability = torch.tensor([0.2, 0.0]).softmax(0)[0]  # scores 0.1 and -0.1
    assert float(examples.clean_probability[0]) == pytest.approx(float(probability), abs=1e-5)


@pytest.mark.parametrize(
    ("fooled", "withstood", "wrong", "expected"),
    [(10, 10, 5, (4, 4, 0)), (1, 30, 5, (1, 7, 0)), (30, 2, 0, (6, 2, 0)), (1, 1, 9, (1, 1, 6)), (1, 0, 0, (1, 0, 0))],
)
def test_what_is_shown_fools_and_is_withstood_in_equal_parts(fooled, withstood, wrong, expected):
    labels = torch.zeros(fooled + withstood + wrong, dtype=torch.long)
    clean, adversarial = labels.clone(), labels.clone()
    adversarial[:fooled] = 1
    clean[fooled + withstood :] = adversarial[fooled + withstood :] = 1
    shown = choose(labels, clean, adversarial, 8)
    kinds = [(shown < fooled).sum(), ((shown >= fooled) & (shown < fooled + withstood)).sum()]
    assert (*map(int, kinds), len(shown) - sum(map(int, kinds))) == expected
    assert len(set(shown.tolist())) == len(shown)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs of the digits, the first of them profiled."""
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for name, profile in (("act", True), ("natural", False)):
        settings = {
            "attack": {"eps": 0.15, "step_size": 0.05, "steps": 2},
            "data": {"name": "digits", "batch_size": 100},
            "train": {"epochs": 1, "max_steps": 11, "device": "cpu", "log_every": 2},
            "evaluate": {"steps": 3, "restarts": 1, "images": 100, "check_masking": False, "eps": 0.2},
        }
        config = from_mapping({"objective": {"name": name}}, from_mapping(settings))
        assert Trainer(config, root / name, profile=profile).run() == 0
        folders.append(root / name)
    return folders


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    """The report about both."""
    output = runs[0].parent / "report"
    assert door.main([*map(str, runs), "--samples", "40", "--output", str(output)]) == 0
    return output / "report.html"


def test_the_page_holds_everything_and_fetches_nothing(runs: list[Path], page: Path):
    html = page.read_text("utf-8")
    for run in runs:
        evaluation = json.loads((run / "evaluation.json").read_text())
        for model in evaluation["models"].values():
            for kind in ("clean_accuracy", "robust_accuracy"):
                low, high = model["intervals"][kind]
                assert f"{100 * model[kind]:.1f} ({100 * low:.1f} to {100 * high:.1f})" in html
    assert "PGD-3 (cross-entropy, linf, eps 0.2" in html
    assert "PGD-20 (linf, eps 0.2)" in html  # the examples, like the curves, are of the ball that was tested
    for file in [*runs[0].glob("report/sweeps-*.json"), *runs[1].glob("report/sweeps-*.json")]:
        sweeps = json.loads(file.read_text())["measured"]
        assert [row["at"] for row in sweeps["eps"]] == [factor * 0.2 for factor in EPS_FACTORS]
    assert "Right on the 100 test images under PGD-3 (linf, eps 0.2), the best first: " in html
    profile = json.loads((runs[0] / "profile.json").read_text())["milliseconds"]
    assert f"{profile['attack']:.1f} ({100 * profile['attack'] / profile['step']:.0f} %)" in html
    environment = json.loads((runs[0] / "environment.json").read_text())
    assert f"torch {environment['packages']['torch']}" in html
    assert "robust_alpha: 0.9" in html
    references = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', html)
    figures = len(SHARED) + 2 * len(runs)
    assert len(references) == 2 * figures + 3 * EXAMPLES * len(runs) + 1  # light and dark; and the empty icon
    assert all(reference.startswith("data:") for reference in references)
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]+", "", html)
    assert "<script" not in html
    plots = {path.name for path in (page.parent / "report").iterdir()}
    assert plots == {*SHARED, *(f"{kind}-{number}.png" for kind in ("classes", "confusion") for number in (0, 1))}


def test_what_was_measured_for_a_report_is_kept(runs: list[Path], page: Path, capsys):
    kept = {path: path.stat().st_mtime_ns for path in page.parent.parent.glob("*/report/*s*.*s*n*")}
    names = ["examples.safetensors", "sweeps-natural.json", "sweeps-robust.json"]
    assert sorted(path.name for path in kept) == sorted([*names, *names[:2]])
    assert door.main([str(runs[0]), "--samples", "40"]) == 0
    assert capsys.readouterr().out.strip() == str(runs[0] / "report.html")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    plots = {path.name for path in (runs[0] / "report").glob("*.png")}
    assert plots == {*SHARED, "classes.png", "confusion.png"}
    html = (runs[0] / "report.html").read_text("utf-8")
    assert "The natural model, trained beside it, is right on" in html
    parameters = sum(tensor.numel() for tensor in load_file(runs[0] / "robust.safetensors").values())
    counted = int(re.search(r"robust ([\d,]+), natural", html)[1].replace(",", ""))
    assert 0.9 * parameters < counted < parameters, "without the running statistics of BatchNorm"
    assert re.search(r"time of training</td><td>0:00:\d\d<", html)


def test_names_from_outside_are_text(runs: list[Path], tmp_path: Path):
    """A run's folder, its data's classes and what its files say may be anything."""
    bad = "<img src=x onerror=alert(1)>&\"'"
    copy = shutil.copytree(runs[1], tmp_path / "<b>bold&")
    evaluation = json.loads((copy / "evaluation.json").read_text())
    evaluation["models"]["natural"]["warnings"] = [f"{bad}: {bad}"]
    evaluation["source"] = bad
    evaluation["models"]["natural"]["transfer_accuracy"] = 0.5
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    environment = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps({**environment, "python": bad, "packages": {bad: bad}}))
    measured = measure_run(copy, connect(torch.device("cpu")), 40)
    measured = dataclasses.replace(measured, class_names=[f"{bad}{index}" for index in range(10)])
    html = write_report([measured], tmp_path / "out").read_text("utf-8")
    kinds = "html head meta link title style body h1 h2 h3 p div table thead tbody tr th td svg rect figure figcaption"
    kinds += " picture source img span strong details summary pre"
    assert set(re.findall(r"<(\w+)", html)) <= {*kinds.split()}
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") > 10


def test_an_evaluation_without_intervals_gets_them(runs: list[Path], tmp_path: Path):
    copy = shutil.copytree(runs[1], tmp_path / "copy")
    evaluation = json.loads((copy / "evaluation.json").read_text())
    for model in evaluation["models"].values():
        model.pop("intervals")
    evaluation["models"]["natural"]["robust_accuracy"] = 0.12
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    assert door.main([str(copy), "--samples", "40"]) == 0
    low, high = wilson(12, 100)
    html = (copy / "report.html").read_text("utf-8")
    assert f"12.0 ({100 * low:.1f} to {100 * high:.1f})" in html
    assert "train with --profile" in html


def test_figures_of_different_attacks_stand_apart(runs: list[Path], tmp_path: Path):
    """Another attack has a heading of its own, its own curves, and the verdict does not compare."""
    copy = shutil.copytree(runs[1], tmp_path / "l2")
    assert evaluate_door.main([str(copy), "--norm", "l2", "--eps", "0.5", "--loss", "margin"]) == 0
    assert door.main([str(runs[0]), str(copy), "--samples", "40", "--output", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "different attacks, whose figures do not compare" in html
    plots = {path.name for path in (tmp_path / "out" / "report").iterdir()}
    assert {"robust-against-eps-0.png", "robust-against-eps-1.png", "robust-against-steps-1.png"} <= plots
    groups = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", html):
        groups[re.search(r"<th[^>]*>(.*?)</th>", body)[1]] = re.findall(r"<tr><td>(.*?)</td>", body)
    assert groups["PGD-3 (margin, l2, eps 0.5, step 0.417), 1 random start, worst case; 100 test images"] == [
        "l2, natural"
    ]
    linf = "PGD-3 (cross-entropy, linf, eps 0.2, step 0.167), 1 random start, worst case; 100 test images"
    assert groups[linf] == ["act, robust", "act, natural", "l2, natural"], "both have been measured with it"


def _browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_the_page_whole(page: Path, tmp_path: Path, width: int, scheme: str):
    """No message on the console, every picture shown, nothing wider than the window, and the scheme's own colours."""
    probe = """<script>addEventListener('load', () => {
      const images = [...document.images];
      document.title = JSON.stringify({
        overflow: document.documentElement.scrollWidth - innerWidth,
        window: innerWidth,
        broken: images.filter(i => !i.complete || !i.naturalWidth).length,
        dark: images.filter(i => i.currentSrc == i.parentElement.children[0].srcset).length,
        plots: document.querySelectorAll('picture').length,
        small: images.filter(i => i.parentElement.tagName == 'PICTURE' && i.width < 320).length,
        measures: document.querySelector('table.measures').getBoundingClientRect().right,
        images: images.length,
        ground: getComputedStyle(document.body).backgroundColor,
        cut: [...document.querySelectorAll('td, th, h1, p, figcaption')].filter(
          e => e.scrollWidth > e.clientWidth + 1).length,
      });
    })</script>"""
    (tmp_path / "page.html").write_text(page.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    command = [
        _browser(),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        f"--window-size={width},900",
        "--dump-dom",
        (tmp_path / "page.html").as_uri(),
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert "CONSOLE" not in result.stderr
    seen = json.loads(re.search(r"<title>(.*?)</title>", result.stdout)[1].replace("&quot;", '"'))
    assert seen["overflow"] <= 0
    assert 0 < seen["window"] <= max(width, 500)  # Chromium's windows are no narrower
    assert seen["measures"] <= seen["window"], "the accuracies are on the screen"
    figures = len(SHARED) + 4
    assert (seen["images"], seen["broken"], seen["cut"]) == (figures + 6 * EXAMPLES, 0, 0)
    assert (seen["plots"], seen["small"]) == (figures, 0)
    assert seen["dark"] == (figures if scheme == "dark" else 0)
    assert seen["ground"] == ("rgb(13, 17, 23)" if scheme == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "RUN: the folder of a training run is missing"),
        (["nowhere"], "'nowhere' is no run"),
        (["run", "--samples", "3"], "--samples: got 3; allowed: 8 or more"),
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
