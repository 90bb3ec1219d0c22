"""Running a study: every training, attack and analysis is kept by its settings, so a study goes on where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from act_engine.config import AnalysisConfig, Config, from_mapping, to_mapping
from act_engine.progress import Kind
from act_engine.progress import progress as shown_progress
from act_engine.runs.folder import ENVIRONMENT, EVALUATION, MEASURED, digest, measured_once
from act_engine.runs.methods import deployed_model
from act_engine.runs.reading import read_json
from act_engine.studies.protocol import METHODS, Study, base_config, config_text, configure, in_search


def run_study(
    name: str,
    study: Study,
    output: Path,
    *,
    methods: Sequence[str],
    seeds: int,
    path: str | None,
    epochs: int | None,
    jobs: int,
    progress: Kind = "none",
) -> dict[str, Any]:
    """The study's result as JSON values: search on held-out images, test accuracies of every seed, analyses.

    Of every method's values the search takes the one with the highest robust accuracy on the held-out images (natural
    training: clean accuracy), and the test images are measured with that one alone.

    Args:
        path: of the data, where it needs one.
        epochs: of every training; None: the study's.
        jobs: processes that work side by side, each with its share of the CPU's threads.
        progress: how it shows how far it is.

    Raises:
        ValueError: a setting does not fit the data, or a package is missing.
        RuntimeError: a training stopped.
    """
    base = decoded(base_config(study, path, epochs), output)
    searched = {m: [configure(base, METHODS[m], value, 0, study.ema) for value in METHODS[m].values] for m in methods}
    searched = {m: [in_search(config, study.validation_samples) for config in row] for m, row in searched.items()}
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(threads,)) as pool:

        def each(task: Callable[..., Any], what: str, rows: Iterable[tuple[Any, ...]]) -> list[Any]:
            futures = [pool.submit(task, *row) for row in rows]
            results = []
            with shown_progress(progress, len(futures), unit="run", what=f"{name}: {what}") as shown:
                try:
                    for future in futures:
                        results.append(future.result())
                        shown.advance()
                finally:
                    for future in futures:
                        future.cancel()
            return results

        folders = {m: [_folder(output, m, config) for config in row] for m, row in searched.items()}
        tasks = [(to_mapping(c), f) for m in methods for c, f in zip(searched[m], folders[m], strict=True)]
        found = iter(each(train_run, "search", tasks))
        search = {m: choose(m, [next(found) for _ in searched[m]]) for m in methods}
        best = {m: (METHODS[m], search[m]["chosen"]) for m in methods}
        final = {m: [configure(base, *best[m], seed, study.ema) for seed in range(seeds)] for m in methods}
        folders = {m: [_folder(output, m, config) for config in row] for m, row in final.items()}
        tasks = [(to_mapping(c), f) for m in methods for c, f in zip(final[m], folders[m], strict=True)]
        evaluations = iter(each(train_run, "training", tasks))
        places = [(folder,) for m in methods for folder in folders[m]]
        attacked = iter(each(autoattack_run, "AutoAttack", [(f, study.autoattack_images) for (f,) in places]))
        settings = dataclasses.asdict(study.analysis)
        analysed = iter(each(analyze_run, "analysis", [(folder, settings) for (folder,) in places]))
        test: dict[str, list[dict[str, Any]]] = {}
        analyses: dict[str, list[dict[str, Any]]] = {}
        for m in methods:
            test[m], analyses[m] = [], []
            for seed in range(seeds):
                evaluation, auto = next(evaluations), next(attacked)
                test[m].append({"seed": seed, **_accuracies(evaluation), "autoattack_accuracy": auto["accuracy"]})
                analyses[m].append(next(analysed))
    environment = read_json(places[0][0] / ENVIRONMENT)
    return {
        "study": name,
        "recipe": study.recipe,
        "changes": _plain(study.changes),
        "epochs": base.train.epochs,
        "seeds": seeds,
        "attack": evaluation["attack"],
        "images": {
            "validation": study.validation_samples,
            "test": evaluation["samples"],
            "autoattack": min(study.autoattack_images, evaluation["samples"]),
        },
        "search": search,
        "test": test,
        "analysis": {"settings": _plain(settings), "values": analyses},
        "environment": {k: environment[k] for k in ("python", "platform", "packages", "device", "git_commit")},
    }


def decoded(base: Config, output: Path) -> Config:
    """The same settings with CIFAR's images read out of one file in `output`: its trainings need not decode JPEGs."""
    name = base.data.name
    if name not in ("cifar10", "cifar100"):
        return base
    file = output / f"{name}.npz"
    if not file.exists():
        import numpy as np

        from act_engine.data.cifar import cifar

        data = cifar(name, base.data.path, download=False, workers=base.data.workers, bad_images="error")
        arrays = {"train_images": data.train.images, "train_labels": data.train.labels}
        arrays |= {"test_images": data.test.images, "test_labels": data.test.labels}
        output.mkdir(parents=True, exist_ok=True)
        partial = output / f".{name}.partial.npz"
        np.savez(partial, **arrays)
        os.replace(partial, file)
    augment = base.data.augment or "crop_flip"
    return dataclasses.replace(base, data=dataclasses.replace(base.data, name="npz", path=str(file), augment=augment))


def train_run(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The evaluation of the run of `config` in `folder`: trained, or gone on with, if it has none yet."""
    if not (folder / EVALUATION).exists():
        from act_engine.training.trainer import Trainer

        with _logged(folder):
            code = Trainer(from_mapping(config), folder).run()
        if code:
            raise RuntimeError(f"{folder}: the training stopped (exit code {code}); start the study again to go on")
    return read_json(folder / EVALUATION)


def autoattack_run(folder: Path, images: int) -> dict[str, Any]:
    """AutoAttack's accuracy, in [0, 1], on a finished run's deployed model; kept, and gone on with, in its folder."""
    from act_engine.evaluation import evaluate_models
    from act_engine.runs.load import load_run

    world = _world(folder)
    run = load_run(folder, world, whole=True)
    name = deployed_model(list(run.models))
    settings = dataclasses.replace(
        run.config.evaluate, attack="autoattack", version="standard", steps=1, restarts=1, step_size=None, images=images
    )

    def measure() -> dict[str, Any]:
        evaluation = evaluate_models(
            {name: run.models[name]},
            run.data.test,
            run.config.attack,
            settings,
            seed=0,
            world=world,
            state=folder / MEASURED,
            whole=True,
        )
        return {"accuracy": evaluation["models"][name]["robust_accuracy"], "samples": evaluation["samples"]}

    key = {"weights": digest(folder / f"{name}.safetensors"), "eps": settings.eps, "images": images}
    with _logged(folder):
        return measured_once(folder / "autoattack.json", key, measure)


def analyze_run(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The three analyses of a finished run, kept in its folder."""
    from act_engine.analysis.runs import analyze
    from act_engine.runs.load import load_run

    run = load_run(folder, _world(folder))
    with _logged(folder):
        return analyze(folder, run, AnalysisConfig(**settings))


def choose(method: str, evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The search of one method, and its value with the highest robust (natural training: clean) accuracy."""
    values = METHODS[method].values
    rows = [{"value": v, **_accuracies(e)} for v, e in zip(values, evaluations, strict=True)]
    decides = "clean_accuracy" if method == "natural" else "robust_accuracy"
    best = max(rows, key=lambda row: row[decides])  # the first of equals
    return {"parameter": METHODS[method].parameter, "rows": rows, "chosen": best["value"]}


def _accuracies(evaluation: dict[str, Any]) -> dict[str, float]:
    model = evaluation["models"][deployed_model(list(evaluation["models"]))]
    return {name: model[name] for name in ("clean_accuracy", "robust_accuracy")}


def _folder(output: Path, method: str, config: Config) -> Path:
    return output / f"{method}-{hashlib.sha256(config_text(config).encode()).hexdigest()[:12]}"


def _start_worker(threads: int) -> None:
    """A worker uses its share of the threads, and ends with the study even if that is killed."""
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_the_study, daemon=True).start()


def _end_with_the_study() -> None:
    study = multiprocessing.parent_process()
    study.join()
    os._exit(1)  # a training goes on from its checkpoint; two in one folder would spoil it


def _world(folder: Path) -> Any:
    from act_engine.parallel import connect
    from act_engine.runs.environment import pick_device
    from act_engine.runs.folder import read_config

    return connect(pick_device(read_config(folder).train.device))


@contextlib.contextmanager
def _logged(folder: Path):
    """What is printed inside goes to a file beside the run: several speak at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        folder.with_suffix(".log").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
