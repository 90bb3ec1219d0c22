"""The kernels inside other people's trainers: each example trains as plain PyTorch does, and says how much it saves."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {
    "plain_pytorch": (), "mair_style": (), "timm_mixup": ("timm",), "foolbox_pgd": ("foolbox",),
    "lightning_callback": ("lightning",), "fabric_loop": ("lightning",), "accelerate_loop": ("accelerate",),
    "hf_trainer": ("transformers", "accelerate"),
}  # fmt: skip


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("name", NEEDS)
def test_both_ways_train_alike(name, example, capsys, monkeypatch):
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f'needs {package}: pip install "act-engine[examples]"')
    monkeypatch.setattr(example("rounds").batches, "__defaults__", (torch.float32, 4))  # smaller batches
    # In float64: in float32 the sign of a gradient near 0, and with it a pixel, depends on the order of a sum.
    values = example(name).main(rounds=2, steps=2, dtype=torch.float64)
    (theirs, again), (ours, _) = values.values()
    assert theirs == again, "a round begins where the last one began"
    assert ours == pytest.approx(theirs, rel=1e-9)
    printed = capsys.readouterr().out
    assert re.search(r"2 rounds in turn, median \(lowest to highest\)\n", printed)
    assert re.search(r"time saved +-?\d+ % \(-?\d+ to -?\d+\)\n", printed)


def test_each_is_short():
    for name in NEEDS:
        assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60, name
