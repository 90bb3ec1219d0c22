"""A report of a run whose files hold scripts wherever they hold a text: in a browser nothing of it runs."""

import json
import shutil
import subprocess

import pytest

from act_engine import report, train

MARK = "data-it-ran"
SCRIPT = f"</p><script>document.documentElement.setAttribute('{MARK}', '1')</script>"
HANDLER = f"<img src=x onerror=\"document.documentElement.setAttribute('{MARK}', '1')\">"
HOSTILE = SCRIPT + HANDLER
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def spoiled(value):
    """A JSON value with a script behind each of its texts; names of an object's parts stay, for the reader to find."""
    if isinstance(value, dict):
        return {name: spoiled(part) for name, part in value.items()}
    if isinstance(value, list):
        return [spoiled(part) for part in value]
    return value + HOSTILE if isinstance(value, str) else value


def dom(page, profile):
    """The page as the browser has it once its scripts have run."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=2000"]
    command = [CHROMIUM, *words, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_nothing_runs(tmp_path):
    run = tmp_path / "run"
    words = ["--recipe", "digits", "--train.max_steps", "2", "--attack.steps", "1", "--train.log_every", "1"]
    words += ["--evaluate.steps", "1", "--evaluate.restarts", "1", "--evaluate.images", "20"]
    assert train.main([*words, "--evaluate.check_masking", "false", "--output", str(run)]) == 0
    sound = json.loads((run / "evaluation.json").read_text())
    for file in (run / "environment.json", run / "evaluation.json"):
        file.write_text(json.dumps(spoiled(json.loads(file.read_text()))))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation |= {name: sound[name] for name in ("attack", "settings", "weights")}  # words of a list, or refused
    evaluation["models"] |= {f"robust{HOSTILE}": evaluation["models"]["robust"]}
    for entry in evaluation["models"].values():
        entry["warnings"] = [HOSTILE]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | {f"{HOSTILE}_loss": 1.0}) + "\n" for line in lines))
    assert report.main([str(run), "--samples", "8"]) == 0
    page = run / "report.html"
    assert "it-ran" in page.read_text()  # the texts are there
    assert f'{MARK}="1"' not in dom(page, tmp_path / "profile")
    control = tmp_path / "control.html"
    control.write_text(f"<p>{SCRIPT}")
    assert f'{MARK}="1"' in dom(control, tmp_path / "profile")
