"""What an attack's view of a model costs beyond the passes of its folded copy: nothing, after the first batch.

    pytest benchmarks/ --benchmark-only -k attack_view --save-results

A call is one forward pass and input gradient, as a step of PGD. Every round runs all contenders in turn, and a
contender's ratio is the median over the rounds of its time over the bare copy's. The refresh at the beginning of an
attack is a row of its own: weights copied and BatchNorm folded, once for all of an attack's steps.
"""

import statistics

import pytest
import torch
from test_training_step import seconds

from act_engine.attack import AttackView, LiveView, input_gradient
from act_engine.models import build_model

WORKLOADS = {"small_cnn": ((1, 8, 8), 256), "cifar_resnet18": ((3, 32, 32), 32)}


@pytest.mark.parametrize("name", WORKLOADS)
def test_attack_view(benchmark, bench, name):
    shape, batch = WORKLOADS[name]
    device = bench.device
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, image_shape=shape).to(device)
    images = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)
    direction = torch.randn(batch, 10, device=device)
    view, live = AttackView(model), LiveView(model, model)
    module = view.module

    def step(forward):
        return lambda: input_gradient(forward, images, lambda logits: direction)[1]

    def held(one, call):
        def run():
            with one.ready():
                call()

        return run

    calls = {
        "folded copy alone": step(module),
        "attack view, within ready": step(view),
        "attack view, a call by itself": step(view),
        "model itself": held(live, step(live)),
        "attack view, refresh": view.refresh,
        "attack view, first batch": lambda: step(AttackView(model))(),
    }
    samples: dict[str, list[float]] = {contender: [] for contender in calls}

    def one_round():
        for contender, call in calls.items():
            if contender.endswith("within ready"):
                with view.ready():
                    samples[contender].append(seconds(call, device))
            else:
                samples[contender].append(seconds(call, device))

    expected = calls["folded copy alone"]()
    torch.testing.assert_close(calls["attack view, a call by itself"](), expected)
    if benchmark.disabled:
        benchmark.pedantic(one_round)
        return
    one_round()
    for measured in samples.values():
        measured.clear()
    benchmark.pedantic(one_round, rounds=bench.rounds)
    alone = samples["folded copy alone"]
    for contender, measured in samples.items():
        times = sorted(measured)
        row = {
            "op": "attack_view",
            "size": f"{name} {batch}x{'x'.join(map(str, shape))}",
            "contender": contender,
            "median_us": statistics.median(times) * 1e6,
            "p20_us": times[len(times) // 5] * 1e6,
            "p80_us": times[len(times) * 4 // 5] * 1e6,
            "times_the_copy": statistics.median(own / bare for own, bare in zip(measured, alone, strict=True)),
        }
        benchmark.extra_info[contender] = row
        bench.rows.append(row)
