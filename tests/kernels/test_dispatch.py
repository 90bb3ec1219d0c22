"""The choice of a backend: automatic, explicit, and what backends() says of it."""

import json
import subprocess
import sys

import pytest
import torch
from kernel_variants import needs_native

from act_kernels import backends, dispatch, pgd_step, use_backend


def test_backends_tells_what_runs_and_why_the_rest_does_not():
    report = backends()
    assert json.loads(json.dumps(report)) == report
    assert set(report) == {"pgd_step", "random_start", "act_loss", "kl_ce_loss"}
    for devices in report.values():
        cpu = devices["cpu"]
        assert set(cpu) == {"reference", "native", "triton", "automatic"}
        assert cpu["reference"] == "available"
        assert cpu[cpu["automatic"]] == "available"
        assert all(reason for reason in cpu.values())


def test_an_explicit_choice_that_cannot_run_raises_with_the_reason(monkeypatch):
    monkeypatch.setattr(dispatch, "why_not", lambda backend, *_: "no compiler" if backend == "native" else None)
    x = torch.rand(2, 3)
    with (
        use_backend("native"),
        pytest.raises(RuntimeError, match=r"pgd_step: backend 'native' .* cannot run: no compiler"),
    ):
        pgd_step(x, x, x, 0.1, 0.1)
    with use_backend("auto"):
        pgd_step(x, x, x, 0.1, 0.1)  # the automatic choice falls back


@needs_native
def test_native_says_that_float64_is_not_its_own():
    x = torch.rand(2, 3, dtype=torch.float64)
    with use_backend("native"), pytest.raises(RuntimeError, match="float64 is the reference's"):
        pgd_step(x, x, x, 0.1, 0.1)


@needs_native
def test_a_float64_gradient_of_narrower_images_goes_to_the_reference():
    x, grad = torch.full((2, 3), 0.5), torch.full((2, 3), 1e-60, dtype=torch.float64)
    assert torch.equal(pgd_step(x, grad, x, 0.125, 0.25), torch.full((2, 3), 0.625))
    with use_backend("native"), pytest.raises(RuntimeError, match="float64 is the reference's"):
        pgd_step(x, grad, x, 0.125, 0.25)


def test_choices_nest_and_hold_without_a_with():
    try:
        use_backend("reference")
        assert dispatch._selected == "reference"
        with use_backend("native"):
            assert dispatch._selected == "native"
            with use_backend("auto"):
                assert dispatch._selected is None
        assert dispatch._selected == "reference"
    finally:
        use_backend("auto")


def test_importing_probes_no_device_and_prints_nothing():
    program = (
        "import act_kernels, sys, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "loaded = {'triton', 'act_engine', 'act_kernels.native'} & set(sys.modules)\n"
        "sys.exit(f'imported {loaded}' if loaded - ({'triton'} if 'triton' in before else set()) else 0)"
    )
    program = "import sys, torch; before = set(sys.modules)\n" + program
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
