"""What an installed act_kernels must do, with torch alone: no pytest, no NumPy, no compiler. Exit code 1 says what not.

`tests/wheels/check.py` runs it in fresh environments; `python tests/wheels/suite.py` runs it in this one.
"""

import itertools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

import act_kernels
from act_kernels import act_loss, attack_grad, kl_ce_loss, pgd_step, random_start, trades_loss, use_backend

_EPSILON = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}  # the rounding of one number


def installed_here() -> None:
    folder = Path(act_kernels.__file__).resolve()
    assert Path(sys.prefix).resolve() in folder.parents, f"act_kernels comes from {folder}, not from this environment"


def native_serves_every_op() -> None:
    for op, devices in act_kernels.backends().items():
        assert devices["cpu"]["native"] == "available", f"{op}: {devices['cpu']['native']}"
        assert devices["cpu"]["automatic"] == "native", op


def _on_both(call):
    with use_backend("reference"):
        expected = call()
    with use_backend("native"):
        return call(), expected


def steps_are_the_reference_to_the_bit() -> None:
    torch.manual_seed(0)
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout, eps in itertools.product(_EPSILON, layouts, (8 / 255, torch.tensor([0.0, 0.1, 0.02]))):
        x = torch.rand(3, 3, 17, 19).to(dtype).contiguous(memory_format=layout)
        grad = torch.randn(3, 3, 17, 19).contiguous(memory_format=layout)
        grad[0, 0, 0, :3] = 0.0
        x_adv = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
        found, expected = _on_both(lambda a=x_adv, g=grad, x=x, e=eps: pgd_step(a, g, x, 2 / 255, e))
        assert torch.equal(found, expected), (dtype, layout)
        generators = [torch.Generator().manual_seed(7) for _ in range(2)]
        found, expected = _on_both(lambda x=x, g=generators: random_start(x, 8 / 255, generator=g.pop()))
        assert torch.equal(found, expected), ("random_start", dtype, layout)


def losses_are_near_float64() -> None:
    """Values within what float32 loses over a row of 100 classes; gradients within their own dtype's rounding too."""
    torch.manual_seed(1)
    labels = torch.randint(100, (16,))
    for dtype, epsilon in _EPSILON.items():
        z, t = ((4 * torch.randn(16, 100)).to(dtype).requires_grad_() for _ in range(2))
        exact_z, exact_t = (logits.detach().double().requires_grad_() for logits in (z, t))
        loss = kl_ce_loss(z, t, labels, kl_weight=2.0, ce_weight=0.5)
        loss.backward()
        target = exact_t.detach().log_softmax(1)
        divergence = F.kl_div(exact_z.log_softmax(1), target, log_target=True, reduction="batchmean")
        exact = 2.0 * divergence + 0.5 * F.cross_entropy(exact_z, labels)
        exact.backward()
        # 100 terms of a sum, each rounded in float32; the terms are at most about 20.
        assert abs(loss.double() - exact) < 100 * 2**-24 * 20, dtype
        band = 4 * epsilon * exact_z.grad.abs() + 100 * 2**-24 / 16 + torch.finfo(dtype).smallest_normal
        assert ((z.grad.double() - exact_z.grad).abs() <= band).all(), dtype
        with use_backend("native"):
            direction = attack_grad(z.detach(), t.detach(), labels, kl_weight=2.0, ce_weight=0.5)
        assert direction.shape == z.shape
        assert bool(direction.isfinite().all())
        assert all(bool(part.isfinite()) for part in act_loss(z, t, labels))


def compiles_in_one_graph() -> None:
    def attack_step(x_adv, grad, x, z, t, labels):
        return pgd_step(x_adv, grad, x, 2 / 255, 8 / 255), trades_loss(z, t, labels)

    x, z = torch.rand(2, 3, 8, 8), torch.randn(2, 10, requires_grad=True)
    arguments = (x, torch.randn_like(x), x.clone(), z, torch.randn(2, 10), torch.tensor([1, 2]))
    compiled = torch.compile(attack_step, fullgraph=True, backend="aot_eager")  # no compiler is needed
    for found, expected in zip(compiled(*arguments), attack_step(*arguments), strict=True):
        torch.testing.assert_close(found, expected)


def registrations_pass_opcheck() -> None:
    x = torch.rand(2, 3, 4, 4)
    image = (x, torch.randn_like(x), x.clone(), None, 0.01, None, 0.03, None, 0.0, None, 1.0, "linf")
    start = (torch.tensor([1]), 0, False, None, 0.1, None, 0.0, None, 1.0)
    ops = torch.ops.act_kernels
    torch.library.opcheck(ops.pgd_step.default, image)
    torch.library.opcheck(ops.pgd_step_.default, (x.clone(), *image[1:]))
    torch.library.opcheck(ops.random_start_.default, (x.clone(), x, *start))


def the_readme_runs() -> None:
    """The lines that kernels/README.md adds to a loop."""
    model, loss = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10)), F.cross_entropy
    x, y, step_size, eps = torch.rand(4, 3, 4, 4), torch.arange(4), 2 / 255, 8 / 255
    x_adv = random_start(x, eps)
    for _ in range(3):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(x_adv), y), x_adv)
        x_adv = pgd_step(x_adv, grad, x, step_size, eps)
    assert (x_adv - x).abs().max() <= eps + 2**-24
    robust, natural = act_loss(model(x_adv), model(x), y)
    (robust + natural).backward()


def main() -> int:
    failed = 0
    for check in (
        native_serves_every_op,
        steps_are_the_reference_to_the_bit,
        losses_are_near_float64,
        compiles_in_one_graph,
        registrations_pass_opcheck,
        the_readme_runs,
        *((installed_here,) if "--installed" in sys.argv else ()),
    ):
        try:
            check()
        except Exception as error:
            failed += 1
            print(f"FAILS {check.__name__}: {type(error).__name__}: {error}".splitlines()[0])
    print(
        f"act_kernels {act_kernels.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}: ", end=""
    )
    print("failed" if failed else "passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
