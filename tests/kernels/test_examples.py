"""The examples run, and what they claim holds: the same losses, the same adversarial images."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(_EXAMPLES))
    yield importlib.import_module
    for path in _EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_trades_before_and_after(example, monkeypatch, capsys):
    trades, before, after = example("trades"), example("trades_before"), example("trades_after")
    torch.testing.assert_close(
        trades.train(after.train_step, 2)[0], trades.train(before.train_step, 2)[0], rtol=1e-4, atol=1e-6
    )
    monkeypatch.setattr(sys, "argv", ["trades.py", "--steps", "1"])
    trades.main()
    assert "MB allocated" in capsys.readouterr().out


def test_trades_changes_few_lines(example):
    before = (_EXAMPLES / "trades_before.py").read_text().split('"""', 2)[2].splitlines()
    after = (_EXAMPLES / "trades_after.py").read_text().split('"""', 2)[2].splitlines()
    new = [line.strip() for line in after if line not in before and line]
    assert new == [
        "from act_kernels import pgd_step, trades_loss",
        "x_adv = pgd_step(x_adv, grad, x, step_size, eps)",
        "loss = trades_loss(natural_logits, adversarial_logits, labels, beta=beta)",
    ]


@pytest.mark.parametrize("random_start", [True, False])
def test_torchattacks_pgd(example, random_start):
    torchattacks = pytest.importorskip("torchattacks")
    fused, trades = example("torchattacks_pgd"), example("trades")
    model = trades.small_model().eval()
    generator = torch.Generator().manual_seed(0)
    model.double()  # in float32 a gradient near 0 has another sign once an iterate is rounded in another way
    x, labels = torch.rand(8, 3, 32, 32, generator=generator, dtype=torch.float64), torch.arange(8)
    images = []
    for attack in (torchattacks.PGD, fused.FusedPGD):
        torch.manual_seed(0)
        images.append(attack(model, eps=8 / 255, alpha=2 / 255, steps=5, random_start=random_start)(x, labels))
    # torchattacks adds the clamped difference back to the image, which rounds numbers below 1 twice more.
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=2 * 2**-53)
