"""What an evaluation's checks of its premises cost beyond the attack itself.

    pytest benchmarks/ --benchmark-only -k "evaluation and not peers" --save-results

The same PGD on the same batches, three ways in turn: through a view and nothing else; through a `WatchedView`, which
notes logits and gradients that are not finite; and `evaluate`, which copies the model, compares the copy with it on the
first batch and checks images, labels and outputs. A ratio is the median over the rounds of each round's ratio.
"""

import statistics

import pytest
import torch
from test_training_step import seconds

from act_engine.attack import AttackView
from act_engine.evaluation.accuracy import evaluate
from act_engine.evaluation.attacks import PGDAttack, Place
from act_engine.evaluation.premises import WatchedView, is_right
from act_engine.models import build_model

WORKLOADS = {"small_cnn": ((1, 8, 8), 250, 4), "cifar_resnet18": ((3, 32, 32), 16, 2)}
"""Image shape, images a batch, batches."""
STEPS = 5


@pytest.mark.parametrize("name", WORKLOADS)
def test_evaluation(benchmark, bench, name):
    shape, batch, count = WORKLOADS[name]
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, image_shape=shape).to(bench.device).eval()
    images = [torch.rand(batch, *shape, device=bench.device) for _ in range(count)]
    with torch.no_grad():  # all right when clean, so that every contender attacks all of them
        batches = [(x, model(x).argmax(1)) for x in images]
    attack = PGDAttack(1e-4, 2e-5, steps=STEPS, restarts=1)  # in so small a ball none of them falls at once
    view = AttackView(model)
    total = batch * count

    def attacked(watch):
        def run() -> int:
            right = 0
            with view.ready():
                for index, (x, y) in enumerate(batches):
                    with torch.no_grad():
                        clean = is_right(view(x), y)
                    right += int(attack(watch(view), x, y, clean, Place(index * batch, total, 0))[-1].sum())
            return right

        return run

    calls = {
        "attack alone": attacked(lambda view: view),
        "attack, watched": attacked(WatchedView),
        "evaluate": lambda: evaluate(model, batches, attack=attack, total=total, warn=lambda text: None).robust,
    }
    assert len({call() for call in calls.values()}) == 1  # the same images withstand it
    samples: dict[str, list[float]] = {contender: [] for contender in calls}

    def one_round():
        for contender, call in calls.items():
            samples[contender].append(seconds(call, bench.device))

    if benchmark.disabled:
        benchmark.pedantic(one_round)
        return
    benchmark.pedantic(one_round, rounds=bench.rounds)
    alone = samples["attack alone"]
    for contender, measured in samples.items():
        times = sorted(measured)
        row = {
            "op": "evaluation",
            "size": f"{name} {count} batches of {batch}x{'x'.join(map(str, shape))}, PGD-{STEPS}",
            "contender": contender,
            "median_us": statistics.median(times) * 1e6,
            "p20_us": times[len(times) // 5] * 1e6,
            "p80_us": times[len(times) * 4 // 5] * 1e6,
            "times_the_copy": statistics.median(own / bare for own, bare in zip(measured, alone, strict=True)),
        }
        benchmark.extra_info[contender] = row
        bench.rows.append(row)
