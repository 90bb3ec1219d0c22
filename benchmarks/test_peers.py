"""The engine beside other libraries: the same training step and the same evaluation through each of them.

    make peers                                        # sets the peers' environments up
    pytest benchmarks/ --benchmark-only -k peers --save-results

Every contender is a process of its own (`peers/driver.py`) with the same PyTorch, weights, batch, optimizer and
threads. Before it is timed its result is checked. A step: the change of the weights lies no further from that of the
plain float32 step than half as far again as a second plain step, with another random start, or the plain step under
autocast. An evaluation: of the plain one's verdicts at most 5 in 100 are others, which random starts decide. Rounds
run all contenders in turn; ratios are medians over the rounds of each round's ratio, by wall-clock and by CPU time.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peers.environments import OWN, PEERS, start, why_missing

import act_engine
from act_engine.config import from_mapping, read_recipe
from act_engine.data.digits import digits
from act_engine.data.textures import textures
from act_engine.models import build_model

EPS = 8 / 255
METHODS = {
    "madry": {"steps": 10, "step_size": 2 / 255},
    "trades": {"steps": 10, "step_size": 2 / 255, "beta": 6.0},
    "fgsm_rs": {"steps": 1, "step_size": 10 / 255},
}
ATTACKS = {"pgd": {"steps": 100, "restarts": 5}, "autoattack": {}}
ON_GPU = torch.cuda.is_available()
MODELS = {"cifar_resnet18": (32, 16), "cifar_wrn16_4": (32, 16)} | ({"resnet50": (224, 128)} if ON_GPU else {})
"""Side of the images in pixels, and images a batch."""
CLASSES = 5
"""Of the package's `textures`."""
ROUNDS = 3
IMAGES = 100
"""Images of the evaluations."""
NEAR = 1.5
"""How far from the plain step a contender's may lie, in distances of the plain steps that bound it."""
DISAGREE = 0.05
"""Share of the verdicts that may differ from the plain evaluation's."""
REFERENCE, PRECISE = "plain", ("plain", "plain_autocast")


class PeerError(Exception):
    """What a contender says went wrong."""


class Process:
    """A contender's driver: `ask` it, and it answers."""

    def __init__(self, name: str) -> None:
        self._process = start(name, threads=str(torch.get_num_threads()))

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def contenders(wanted: Iterator[str]) -> Iterator[tuple[dict[str, Process], dict[str, str]]]:
    """Processes of those that are installed, by name, and of the others why not."""
    missing = {name: reason for name in wanted if (reason := why_missing(name))}
    processes = {name: Process(name) for name in wanted if name not in missing}
    try:
        yield processes, missing
    finally:
        for process in processes.values():
            process.close()


def prepare(processes: dict[str, Process], missing: dict[str, str], task: dict[str, Any]) -> dict[str, str]:
    """Give everybody the task; the versions of those that can do it. The others leave `processes` for `missing`."""
    versions = {}
    for name in list(processes):
        try:
            versions[name] = processes[name].ask("prepare", task=task)["version"]
        except PeerError as error:
            drop(processes, missing, name, str(error))
    return versions


def drop(processes: dict[str, Process], missing: dict[str, str], name: str, reason: str) -> None:
    """Leave a contender out of what follows."""
    missing[name] = reason
    processes.pop(name).close()


def as_tensors(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A split's images [N, C, H, W], float in [0, 1], and labels [N]."""
    images = torch.from_numpy(np.ascontiguousarray(part.images)).permute(0, 3, 1, 2)
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    return images.contiguous(), torch.from_numpy(np.asarray(part.labels)).long()


def pictures(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first pictures of the package's `textures`, in three channels of that size, and their labels."""
    images, labels = as_tensors(textures(0).train)
    images = torch.nn.functional.interpolate(images[:count], size=(side, side)).expand(-1, 3, -1, -1)
    return images.contiguous(), labels[:count]


def batch_file(folder: Path, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> str:
    file = folder / "setting.pt"
    torch.save({"weights": model.state_dict(), "images": images, "labels": labels}, file)
    return str(file)


def timed(benchmark, processes: dict[str, Process], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each answers in each round, all in turn."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in processes}

    def one_round() -> None:
        for name, process in processes.items():
            answers[name].append(process.ask("run"))

    benchmark.pedantic(one_round, rounds=rounds)
    return answers


def add_rows(bench, about: dict[str, Any], answers, processes, missing, extra, images: int) -> None:
    """A row for each contender that was timed, and one with the reason for each that was not."""
    engine = answers["engine"]
    for name, measured in answers.items():
        times = sorted(answer["seconds"] for answer in measured)
        cpu = statistics.median(answer["cpu_seconds"] for answer in measured)
        ratios = {
            kind: statistics.median(a[kind] / e[kind] for a, e in zip(measured, engine, strict=True))
            for kind in ("seconds", "cpu_seconds")
        }
        median = statistics.median(times)
        row = {
            **about,
            "contender": name,
            "median_us": median * 1e6,
            "p20_us": times[len(times) // 5] * 1e6,
            "p80_us": times[len(times) * 4 // 5] * 1e6,
            "cpu_us": cpu * 1e6,
            "images_per_second": images / median,
            "engine_speed_up": ratios["seconds"],
            "engine_speed_up_cpu": ratios["cpu_seconds"],
            "peak_bytes": processes[name].ask("peak")["peak_bytes"],
            **extra[name],
        }
        bench.rows.append(row)
    bench.rows += [{**about, "contender": name, "why_not": reason} for name, reason in sorted(missing.items())]


def moved(before: dict[str, torch.Tensor], file: Path) -> torch.Tensor:
    """How a step changed the weights, as one vector."""
    after = torch.load(file, weights_only=True, map_location="cpu")
    names = [name for name, value in before.items() if value.is_floating_point() and "running" not in name]
    return torch.cat([(after[name] - before[name]).flatten() for name in names])


@pytest.fixture(scope="module", params=MODELS)
def trained_a_little(request) -> tuple[str, torch.nn.Module]:
    """A model after two passes over some batches: a fresh one's gradients follow the noise of the start alone."""
    side, batch = MODELS[request.param]
    torch.manual_seed(0)
    model = build_model(request.param, num_classes=CLASSES, image_shape=(3, side, side))
    data = torch.utils.data.TensorDataset(*pictures(16 * batch, side))
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(batch, len(data))), batch_size=batch)
    settings = {"lr": 0.02, "schedule": "constant", "precision": "bfloat16", "progress": "none"}
    act_engine.fit(model, loader, objective="madry", epochs=2, eps=EPS, steps=1, step_size=10 / 255, **settings)
    return request.param, model


@pytest.mark.parametrize("method", METHODS)
def test_peers_step(benchmark, bench, request, trained_a_little, method, tmp_path):
    load = os.getloadavg()[0]
    model, network = trained_a_little
    side, batch = MODELS[model]
    images, labels = pictures(batch, side)
    before = {name: value.cpu().clone() for name, value in network.state_dict().items()}
    task = {
        "kind": "step",
        "name": method,
        "model": model,
        "classes": CLASSES,
        "file": batch_file(tmp_path, network, images, labels),
        "threads": torch.get_num_threads(),
        "seed": 0,
        "eps": EPS,
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "precision": "bfloat16",
        **METHODS[method],
    }
    with contenders([*OWN, *PEERS]) as (processes, missing):
        versions = prepare(processes, missing, task)
        again = tmp_path / "again.pt"
        other_start = Process(REFERENCE)
        other_start.ask("prepare", task={**task, "seed": 1})
        other_start.ask("update", file=str(again))
        other_start.close()
        updates, extra = {}, {}
        for name in list(processes):
            try:
                processes[name].ask("update", file=str(tmp_path / f"{name}.pt"))
                updates[name] = moved(before, tmp_path / f"{name}.pt")
            except PeerError as error:
                drop(processes, missing, name, str(error))
        reference = updates[REFERENCE]
        scale = reference.norm()
        bounds = [moved(before, again), updates["plain_autocast"]]
        bound = NEAR * max(float((vector - reference).norm() / scale) for vector in bounds)
        for name, update in updates.items():
            difference = float((update - reference).norm() / scale)
            extra[name] = {"version": versions[name], "difference": difference, "bound": bound}
            if not difference <= bound:
                reason = f"another step: its update differs by {difference:.2f} of the plain one's length"
                drop(processes, missing, name, f"{reason}; {bound:.2f} allowed")
        assert {"engine", *PRECISE} <= set(processes), missing
        if benchmark.disabled:
            benchmark.pedantic(lambda: None)
            return
        answers = timed(benchmark, processes, request.config.getoption("--rounds") or ROUNDS)
        size = f"{method} {model} {batch}x3x{side}x{side}"
        add_rows(bench, {"op": "peers step", "size": size, "load": load}, answers, processes, missing, extra, batch)


@pytest.fixture(scope="module", params=["digits", pytest.param("textures", marks=pytest.mark.large)])
def robust_model(request) -> tuple[str, torch.nn.Module, torch.Tensor, torch.Tensor, float]:
    """A model's name, the model, test images and labels, and eps: trained for some epochs, as the package's recipe."""
    config, splits = (
        from_mapping(read_recipe(request.param)),
        {"digits": digits, "textures": lambda: textures(0)}[request.param](),
    )
    (x, y), (test_x, test_y) = as_tensors(splits.train), as_tensors(splits.test)
    classes, eps = int(y.max()) + 1, config.attack.eps
    torch.manual_seed(0)
    model = build_model(config.model.name, num_classes=classes, image_shape=tuple(x.shape[1:]))
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(data, batch_size=100, shuffle=True)
    settings = {"schedule": "onecycle", "lr": 0.1, "progress": "none"}
    act_engine.fit(model, loader, objective="madry", epochs=8, eps=eps, steps=5, **settings)
    return config.model.name, model.cpu(), test_x[:IMAGES], test_y[:IMAGES], eps


@pytest.mark.parametrize("attack", ATTACKS)
def test_peers_evaluation(benchmark, bench, request, attack, robust_model, tmp_path):
    load = os.getloadavg()[0]
    architecture, model, images, labels, eps = robust_model
    task = {
        "kind": "evaluation",
        "name": attack,
        "model": architecture,
        "classes": model.fc.out_features,
        "file": batch_file(tmp_path, model, images, labels),
        "threads": torch.get_num_threads(),
        "seed": 0,
        "eps": eps,
        **ATTACKS[attack],
        "step_size": 2.5 * eps / 100,
    }
    reference = REFERENCE if attack == "pgd" else "pyautoattack"
    with contenders([*OWN, *PEERS]) as (processes, missing):
        versions = prepare(processes, missing, task)
        if reference not in processes:
            pytest.skip(f"{reference}, which the others are compared with: {missing[reference]}")
        if benchmark.disabled:
            benchmark.pedantic(lambda: None)
            return
        answers = timed(
            benchmark, processes, request.config.getoption("--rounds") or (ROUNDS if attack == "pgd" else 1)
        )
        expected = torch.tensor(answers[reference][0]["right"])
        extra = {}
        for name in list(processes):
            verdicts = torch.tensor(answers[name][0]["right"])
            others = int((verdicts != expected).sum())
            extra[name] = {"version": versions[name], "robust": int(verdicts.sum()), "other_verdicts": others}
            if others > DISAGREE * len(expected):
                del answers[name]
                drop(processes, missing, name, f"{others} of {len(expected)} verdicts differ from {reference}'s")
        shape = "x".join(map(str, images.shape))
        size = f"{attack.replace('pgd', 'PGD-100 x 5')} {architecture} {shape}"
        add_rows(
            bench, {"op": "peers evaluation", "size": size, "load": load}, answers, processes, missing, extra, IMAGES
        )
