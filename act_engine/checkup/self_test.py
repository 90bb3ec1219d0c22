"""A look at whether the kernels and a training step compute right, in seconds; the test suite looks closely."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import act_kernels
from act_engine.checkup.finding import Finding
from act_engine.checkup.installed import REINSTALL
from act_engine.models import build_model
from act_engine.training.fit import fit

IMAGES, CLASSES = (16, 3, 32, 32), 10
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
"""Sums of ten terms in float32, each rounded to 6e-8 of itself, in another order: well below this, unless wrong."""


def _calls(device: torch.device) -> dict[str, Callable[[], list[Tensor]]]:
    """For each op a call of it on the same arguments every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, generator=generator).to(device)
    grad = torch.randn(IMAGES, generator=generator).to(device)
    logits, others = (3 * torch.randn(IMAGES[0], CLASSES, generator=generator).to(device) for _ in range(2))
    labels = torch.randint(CLASSES, (IMAGES[0],), generator=generator).to(device)

    def with_gradients(loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        leaves = [logits.clone().requires_grad_(), others.clone().requires_grad_()]
        value = loss(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)]

    def random_start() -> list[Tensor]:
        return [act_kernels.random_start(x, 8 / 255, generator=torch.Generator(device).manual_seed(0))]

    return {
        "pgd_step": lambda: [act_kernels.pgd_step(x, grad, x, 2 / 255, 8 / 255)],
        "random_start": random_start,
        "act_loss": lambda: with_gradients(lambda a, b: sum(act_kernels.act_loss(a, b, labels))),
        "kl_ce_loss": lambda: with_gradients(
            lambda a, b: act_kernels.kl_ce_loss(a, b, labels, kl_weight=0.5, ce_weight=0.5, target_grad=True)
        ),
    }


def try_kernels(device: torch.device) -> list[Finding]:
    """Every backend that can run on this device, against the reference: values and gradients."""
    findings, calls = [], _calls(device)
    states = act_kernels.backends()
    for backend in ("native", "triton"):
        ops = [op for op in calls if states[op][device.type][backend] == "available"]
        if not ops:
            continue
        began, wrong = time.perf_counter(), []
        for op in ops:
            with act_kernels.use_backend("reference"):
                expected = calls[op]()
            try:
                with act_kernels.use_backend(backend):
                    torch.testing.assert_close(calls[op](), expected, **CLOSE)
            except Exception as error:  # whatever it is, the page says it
                wrong.append(f"{op}: {_first_line(error)}")
        name = f"{backend} on {device.type}"
        took = time.perf_counter() - began
        if wrong:
            findings.append(Finding(name, "FAILS", "; ".join(wrong), REINSTALL))
        else:
            findings.append(Finding(name, "ok", f"{', '.join(ops)} agree with the reference ({took:.1f} s)"))
    return findings


def try_training(device: torch.device) -> Finding:
    """Four training steps of ACT on random images: they run, stay finite, and move both models' weights."""
    name = f"training on {device.type}"
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(32, 3, 16, 16, generator=generator), torch.arange(32) % CLASSES
    began = time.perf_counter()
    try:
        models: dict[str, nn.Module] = {
            role: build_model("small_cnn", num_classes=CLASSES, image_shape=(3, 16, 16))
            for role in ("robust", "natural")
        }
        before = {role: [p.detach().clone() for p in model.parameters()] for role, model in models.items()}
        batches = [(images[:16], labels[:16]), (images[16:], labels[16:])]
        fitted = fit(models, batches, objective="act", epochs=2, steps=3, device=device.type, progress="none")
        for role, model in fitted.models.items():
            moved = [not torch.equal(a, b.cpu()) for a, b in zip(before[role], model.parameters(), strict=True)]
            if not all(moved):
                return Finding(name, "FAILS", f"{moved.count(False)} of the {role} model's weights did not move")
    except Exception as error:  # whatever it is, the page says it
        return Finding(name, "FAILS", _first_line(error))
    loss = fitted.history[-1]["robust_loss"]
    return Finding(name, "ok", f"4 steps of ACT, robust loss {loss:.3g} ({time.perf_counter() - began:.1f} s)")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
