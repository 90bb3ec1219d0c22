"""What only a GPU can show: no synchronisation, CUDA graphs, launch counts, and more than 2^31 elements."""

import contextlib

import pytest
import torch

import act_kernels
from act_kernels import use_backend
from act_kernels.dispatch import why_not

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
_GB = 2**30


@pytest.fixture(params=("reference", "native", "triton"))
def backend(request):
    reason = why_not(request.param, "act_loss", "cuda", torch.float32)
    if reason is not None:
        pytest.skip(reason)
    with use_backend(request.param):
        yield request.param


def _images():
    x = torch.randint(0, 256, (4, 3, 33, 32), dtype=torch.uint8, device="cuda")
    x_adv = torch.rand(x.shape, device="cuda")
    return x, x_adv, torch.randn(x.shape, device="cuda")


def _logits(rows=256, classes=1000):
    z, t = torch.randn(2, rows, classes, device="cuda").unbind()
    return z.clone().requires_grad_(), t.clone().requires_grad_(), torch.randint(classes, (rows,), device="cuda")


def _linf():
    x, x_adv, grad = _images()
    eps = torch.full((4,), 0.1, device="cuda")
    upper = torch.full((3,), 0.9, device="cuda")
    return lambda: act_kernels.pgd_step(x_adv, grad, x, 0.02, eps, upper=upper)


def _l2():
    x, x_adv, grad = _images()
    return lambda: act_kernels.pgd_step(x_adv, grad, x, 0.2, 1.0, norm="l2")


def _random_start():
    x, _, _ = _images()
    return lambda: act_kernels.random_start(
        x, 0.1, kind="gaussian", sigma=0.0
    )  # without noise, to be the same each time


def _act_loss():
    z, t, labels = _logits()

    def both_ways():
        losses = act_kernels.act_loss(z, t, labels)
        return (*losses, *torch.autograd.grad(losses, (z, t)))

    return both_ways


def _kl_ce_loss():
    z, t, labels = _logits()

    def both_ways():
        loss = act_kernels.kl_ce_loss(z, t, labels, kl_weight=0.5, ce_weight=0.5, temperature=2.0, target_grad=True)
        return (loss, *torch.autograd.grad(loss, (z, t)))

    return both_ways


def _attack_grad():
    z, t, labels = _logits()
    return lambda: act_kernels.attack_grad(z, t, labels, kl_weight=1.0, ce_weight=0.1)


OPS = [_linf, _l2, _random_start, _act_loss, _kl_ce_loss, _attack_grad]
each_op = pytest.mark.parametrize("make", OPS, ids=lambda make: make.__name__.strip("_"))


@contextlib.contextmanager
def _synchronisation_is_an_error():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@each_op
def test_no_synchronisation(backend, make):
    op = make()
    op()  # compiles, and loads modules
    with _synchronisation_is_an_error():
        op()


@each_op
def test_cuda_graph(backend, make):
    op = make()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = op()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = op()
    for _ in range(3):
        graph.replay()
        torch.testing.assert_close(captured, expected, rtol=0, atol=0)


def test_batch_means_on_streams_that_overlap():
    """No launch shares memory with another: eager ones on two streams and a captured one on a third."""
    reason = why_not("native", "act_loss", "cuda", torch.float32)
    if reason is not None:
        pytest.skip(reason)
    with use_backend("native"):
        z, t, labels = _logits(4096)
        expected = torch.stack(act_kernels.act_loss(z.detach(), t.detach(), labels))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = torch.stack(act_kernels.act_loss(z.detach(), t.detach(), labels))
        streams = [torch.cuda.Stream() for _ in range(3)]
        torch.cuda.synchronize()
        results = []
        for _ in range(50):
            for stream in streams[:2]:
                with torch.cuda.stream(stream):
                    results.append(torch.stack(act_kernels.act_loss(z.detach(), t.detach(), labels)))
            with torch.cuda.stream(streams[2]):
                graph.replay()
                results.append(captured.clone())
        torch.cuda.synchronize()
        for result in results:
            torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_act_loss_takes_four_launches():
    """Forward, its batch means and both backwards of 256 × 1000 with the native backend."""
    reason = why_not("native", "act_loss", "cuda", torch.float32)
    if reason is not None:
        pytest.skip(reason)
    z, t, labels = _logits()
    ones = torch.ones((), device="cuda")

    def both_ways():
        robust, natural = act_kernels.act_loss(z, t, labels)
        return torch.autograd.grad((robust, natural), (z, t), (ones, ones))

    with use_backend("native"):
        both_ways()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            both_ways()
            torch.cuda.synchronize()
    launches = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(launches) <= 4, launches


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_beyond_32_bit_offsets(backend, norm):
    if backend == "reference":
        pytest.skip("the reference is the yardstick")
    if torch.cuda.mem_get_info()[0] < 40 * _GB:
        pytest.skip("needs 40 GB of free GPU memory")
    samples, sample_size = 3, 2**30  # offsets up to 3 · 2^30
    x = torch.zeros(samples, sample_size, dtype=torch.uint8, device="cuda")
    x_adv = torch.full(x.shape, 0.25, dtype=torch.bfloat16, device="cuda")
    grad = torch.zeros(x.shape, dtype=torch.bfloat16, device="cuda")
    grad[:, -1] = torch.tensor([1.0, -1.0, 1.0], device="cuda")
    steps = torch.tensor([0.25, 0.125, 0.5], device="cuda")
    act_kernels.pgd_step(x_adv, grad, x, steps, 1e9, norm=norm, inplace=True)
    assert x_adv[:, -1].tolist() == [0.5, 0.125, 0.75]
    assert bool((x_adv[:, :-1] == 0.25).all())


def test_logits_beyond_32_bit_offsets(backend):
    if backend == "reference":
        pytest.skip("the reference is the yardstick")
    if torch.cuda.mem_get_info()[0] < 40 * _GB:
        pytest.skip("needs 40 GB of free GPU memory")
    rows, classes = 2**17 + 8, 2**14 + 8  # 2^31 elements and some
    z = torch.zeros(rows, classes, dtype=torch.bfloat16, device="cuda")
    t = torch.zeros_like(z)
    labels = torch.full((rows,), classes - 1, device="cuda")
    grad = act_kernels.attack_grad(z, t, labels, kl_weight=1.0, ce_weight=1.0)
    uniform = torch.tensor(1 / classes, dtype=torch.bfloat16).item()
    assert grad[-1, 0].item() == pytest.approx(uniform, rel=0.01)
    assert grad[-1, -1].item() == pytest.approx(uniform - 1, rel=0.01)
    assert bool((grad[:, -1] < -0.9).all())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_their_tensors_device(backend):
    x = torch.rand(2, 3, 8, 8, device="cuda:1")
    stepped = act_kernels.pgd_step(x, torch.ones_like(x), x, 0.25, 0.25)
    torch.testing.assert_close(stepped, (x + 0.25).clamp(max=1.0))
