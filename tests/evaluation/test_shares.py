"""Confidence intervals, parts of a data set, and the same result for any number of processes."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from scipy.stats import binomtest
from torch import nn

from act_engine.config import AttackConfig, Config, EvaluateConfig
from act_engine.data import build_data
from act_engine.evaluation import check_evaluation, evaluate_models, wilson
from act_engine.evaluation.autoattack import AutoAttack
from act_engine.evaluation.subset import spread
from act_engine.parallel import World


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (411, 500), (1, 3), (5583, 10_000)])
def test_wilson_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("total", "wanted"), [(500, 100), (500, 499), (17, 5), (3, 3)])
def test_a_part_is_spread_evenly_however_it_is_held(total, wanted):
    images = torch.arange(total)

    def part(rank, size):
        first, last = rank * total // size, (rank + 1) * total // size
        batches = [(images[k : min(k + 7, last)],) * 2 for k in range(first, last, 7)]
        found = list(spread(batches, first=first, wanted=wanted, total=total, batch_size=4))
        assert all(len(labels) == 4 for _, labels in found[:-1])
        return first * wanted // total, [int(x) for x, _ in found for x in x]

    _, whole = part(0, 1)
    assert len(whole) == wanted
    gaps = {b - a for a, b in itertools.pairwise(whole)}
    assert max(gaps) - min(gaps) <= 1
    for size in (2, 3):
        parts = [part(rank, size) for rank in range(size)]
        assert [image for _, held in parts for image in held] == whole
        assert [first for first, _ in parts] == [sum(len(held) for _, held in parts[:rank]) for rank in range(size)]


def perceptron():
    """Without BatchNorm: looking for what can be folded is not for several threads at once."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


class Together:
    """Processes as threads, which meet to add up their counts."""

    def __init__(self, size):
        self.size, self.barrier, self.given = size, threading.Barrier(size), {}

    def world(self, rank):
        world = World(rank, self.size, torch.device("cpu"), 60.0)

        def total(counts):
            self.given[rank] = counts
            self.barrier.wait()
            summed = [sum(column) for column in zip(*(self.given[r] for r in range(self.size)), strict=True)]
            self.barrier.wait()
            return summed

        world.total = total
        return world

    def run(self, function):
        with ThreadPoolExecutor(self.size) as pool:
            results = list(pool.map(lambda rank: function(self.world(rank)), range(self.size)))
        assert all(result == results[0] for result in results)
        return results[0]


@pytest.mark.parametrize("images", [None, 90, 2])
def test_a_part_measured_by_several_processes_is_the_same(images, seeded, in_float64):
    model = in_float64(perceptron())
    settings = EvaluateConfig(steps=2, restarts=2, images=images, batch_size=64, check_masking=images is not None)

    def measure(world):
        data = build_data("digits", batch_size=8, eval_batch_size=64, rank=world.rank, world_size=world.size)
        return evaluate_models({"robust": model}, data.test, AttackConfig(eps=0.05), settings, seed=1, world=world)

    alone = Together(1).run(measure)
    assert alone["samples"] == (images or 500)
    assert Together(3).run(measure) == alone


def test_autoattack_by_several_processes_sees_the_same_chunks(seeded, monkeypatch):
    """The library's starts belong to a chunk as a whole, so every process takes whole chunks."""
    chunks = []
    lock = threading.Lock()

    def run(self, view, x, y, seed):
        with lock:
            chunks.append((len(x), round(float(x.sum()), 3)))
        return x.flatten(1).mean(1) > 0.3

    monkeypatch.setattr(AutoAttack, "_run", run)
    model = perceptron()
    settings = EvaluateConfig(attack="autoattack", steps=1, restarts=1, images=110, check_masking=False)

    def measure(world):
        data = build_data("digits", batch_size=8, eval_batch_size=40)
        arguments = ({"robust": model}, data.test, AttackConfig(), settings)
        return evaluate_models(*arguments, seed=1, world=world, whole=True)

    alone, first = Together(1).run(measure), sorted(chunks)
    chunks.clear()
    assert [size for size, _ in first] == [30, 40, 40]
    assert Together(2).run(measure) == alone
    assert sorted(chunks) == first
    chunks.clear()
    assert Together(5).run(measure) == alone, "also with more processes than chunks"
    assert sorted(chunks) == first


@pytest.mark.parametrize(
    ("settings", "classes", "words"),
    [
        ({"loss": "dlr"}, 2, ["evaluate.loss", "'dlr'", "3 or more"]),
        ({"loss": "dlr", "targets": 1}, 3, ["evaluate.loss", "'dlr'", "4 or more"]),
        ({"targets": 10}, 10, ["evaluate.targets", "10", "0 to 9"]),
    ],
)
def test_what_the_classes_do_not_allow_is_refused(settings, classes, words):
    with pytest.raises(ValueError, match=r"evaluate\.") as error:
        check_evaluation(EvaluateConfig(**settings), classes)
    assert all(word in str(error.value) for word in words)


def test_another_norm_needs_its_own_radius():
    with pytest.raises(ValueError, match=r"evaluate\.eps: got None; allowed: a radius in l2"):
        Config(evaluate=EvaluateConfig(norm="l2"))
    Config(evaluate=EvaluateConfig(norm="l2", eps=0.5))
