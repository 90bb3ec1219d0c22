"""The doctor names what is there, what is missing and what is wrong, and what mends it."""

from pathlib import Path

import pytest
import torch

from act_engine import checkup, doctor
from act_engine.checkup import installed
from act_engine.checkup.installed import NEEDS, Need
from act_kernels import backends
from act_kernels.dispatch import OPS

CPU = torch.device("cpu")


def test_a_page_of_a_sound_installation(monkeypatch, capsys):
    monkeypatch.setattr(installed, "NEEDS", NEEDS[-1:])  # each takes seconds to import
    assert doctor.main([]) == 0
    page = capsys.readouterr().out
    for words in (f"{torch.__version__}, built for", "act-kernels", "matplotlib", *OPS, "4 steps of ACT, robust loss"):
        assert words in page
    for reason in {row["cpu"]["triton"] for row in backends().values()} - {"available"}:
        assert f"not {reason}" in page
    assert "FAILS" not in page
    assert "\nsound; " in page
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--tset", "false"])
    assert "did you mean 'test'" in capsys.readouterr().err


def test_what_is_missing_is_told_from_what_is_broken(monkeypatch, tmp_path):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    needs = (
        Need("no_such_module", "no-such-package", "nothing", "evaluation"),
        Need("broken_module", "numpy", "nothing", "report"),
        Need("yaml", "no-such-package", "reading", "report", other="pyyaml"),
    )
    monkeypatch.setattr(installed, "NEEDS", needs)
    missing, broken, sound = checkup.examine_packages()[-3:]
    assert (missing.state, missing.text) == ("lacks", "for nothing")
    assert missing.mend == "pip install 'act-engine[evaluation]'"
    assert (broken.state, broken.mend) == ("FAILS", "pip install 'act-engine[report]'")
    assert "does not import: RuntimeError: built for another torch" in broken.text
    assert sound.state == "ok"
    page = checkup.format_page({"installed": [missing, broken]})
    assert page.splitlines()[1].split() == ["lacks", "no-such-package", "for", "nothing"]
    assert page.splitlines()[2].strip() == f"→ {missing.mend}"


@pytest.mark.parametrize("op", OPS)
def test_a_wrong_kernel_is_found(monkeypatch, op):
    """Each op in turn with its result a thousandth off."""
    if backends()[op]["cpu"]["native"] != "available":
        pytest.skip(backends()[op]["cpu"]["native"])
    from act_kernels import native

    right = getattr(native, op)

    def wrong(*arguments):
        result = right(*arguments)
        (result[0] if isinstance(result, tuple) else arguments[0]).mul_(1.001)  # or written to where it was told
        return result

    monkeypatch.setattr(native, op, wrong)
    finding = checkup.try_kernels(CPU)[0]
    assert (finding.name, finding.state) == ("native on cpu", "FAILS")
    assert finding.text.startswith(f"{op}: AssertionError")
    assert finding.mend


def test_the_page_on_troubles_has_every_mend():
    page = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text("utf-8")
    for need in NEEDS:
        assert need.mend in page
        assert f"`{need.package}`" in page
    assert installed.REINSTALL in page
