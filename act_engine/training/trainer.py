"""The training loop of a run that is kept in a folder."""

import copy
import dataclasses
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from act_engine.config import Config
from act_engine.data import Batch, Data, Loader, further_tests
from act_engine.evaluation import answers_question, check_evaluation, evaluate_models, format_table
from act_engine.learners import SHARDED, deployed
from act_engine.models import describe_model, load_weights
from act_engine.models.recompute import repeated_blocks
from act_engine.parallel import Vote, connect
from act_engine.progress import progress
from act_engine.runs import environment
from act_engine.runs.data import check_data, describe_run, note_replaced
from act_engine.runs.evaluations import evaluations, keep
from act_engine.runs.folder import LAST, MEASURED, check_output, check_run, open_run
from act_engine.runs.lock import Lock, require_shared
from act_engine.runs.methods import deployed_model, method_of
from act_engine.training import checkpoint
from act_engine.training.build import (
    check_given,
    chosen_by,
    make_data,
    make_learners,
    make_model,
    make_step,
    start_model,
)
from act_engine.training.checkpoint import NonFiniteWeights
from act_engine.training.header import describe_training
from act_engine.training.losses import NonFiniteLoss, PendingLosses
from act_engine.training.preflight import check_ball, check_model
from act_engine.training.profiling import NoProfile, StepProfile
from act_engine.training.resolve import resolve
from act_engine.training.runlog import NoLog, RunLog, Stopwatch
from act_engine.training.saving import Saving
from act_engine.training.signals import caught_signals
from act_engine.training.trackers import check_tracker, open_tracker

__all__ = ["NonFiniteLoss", "NonFiniteWeights", "Trainer"]

WRITE_FAILED = 128  # in the ranks' vote, above every signal's number


class Trainer:
    """One run, from its config to its measured models, on this process's share of it.

    Building it checks everything a user may have got wrong, goes on from the newest checkpoint, and makes or reopens
    the run's folder, as the last act. Rank 0 alone writes and prints.

    Args:
        config: the settings.
        output: the run's folder.
        models: modules to train, by the objective's names for them, in the place of those that ``config.model`` names.
        data: loaders, in the place of those that ``config.data`` names; see `act_engine.data.given_data`.
        profile: profile a few steps.

    Raises:
        ValueError, OSError: a user's mistake, in one line.
    """

    def __init__(
        self,
        config: Config,
        output: str | Path,
        *,
        models: Mapping[str, nn.Module] | None = None,
        data: Data | None = None,
        profile: bool = False,
    ) -> None:
        device = environment.pick_device(config.train.device)
        parallel = config.parallel
        self.world = world = connect(device, timeout=parallel.timeout, distributed=parallel.strategy in SHARDED)
        self.output, self.profile = Path(output), profile
        with world.together():
            if world.is_main:
                check_output("--output", self.output)
            self.objective = method_of(config)
            if data is not None:
                given = dataclasses.replace(config.data, name="given", batch_size=data.train.batch_size)
                config = dataclasses.replace(config, data=given)
            self._whole = data is not None  # such a test loader gives every process all images
        # Rank 0 lists the files, or fetches the data, and the others find what it left.
        self.data = world.main_first(lambda: make_data(config, world)) if data is None else data
        self.further = world.main_first(lambda: self._read_further(config))
        with world.together():
            if config.checkpoint.best_every_epochs is not None and self.data.selection is None:
                raise ValueError("checkpoint.best_every_epochs: got data without images to select by; allowed: null")
            self.config = config = resolve(config, self.objective, world, self.data.num_classes)
            check_evaluation(config.evaluate, config.model.num_classes, self.data.image_shape[0])
            check_tracker(config.train.tracker)
            self.steps_per_epoch = len(self.data.train)
            self.total_steps = min(self.steps_per_epoch * config.train.epochs, config.train.max_steps or 2**62)
            # As they are before any training: what is measured later is a copy with other weights.
            self._given = {name: copy.deepcopy(model) for name, model in check_given(models, self.objective).items()}
            trained = {name: self._start(name, models) for name in self.objective.trains}
            self._described = {name: self._describe(name, model) for name, model in trained.items()}
            self.frozen = {name: self._start(name, models).to(world.device) for name in self.objective.frozen}
            if world.is_main:
                check_run(self.output, config)
                check_data(self.output, self.data, warn=lambda message: print(f"warning: {message}"))
                for note in self.data.notes:
                    print(note)
            self._check_models(trained)
        self.learners = make_learners(config, trained, world, steps_per_epoch=self.steps_per_epoch)
        self.train_step = make_step(
            config, self.objective, self.learners, self.frozen, world, steps_per_epoch=self.steps_per_epoch
        )
        self.pending = PendingLosses(world)
        self.measured: dict[str, float] = {}  # since the last line of metrics
        self.evaluation: dict[str, Any] | None = None
        """The content of evaluation.json, once `run` has come to its end."""
        self.saving = Saving(
            self.output / "checkpoints",
            self.learners,
            self.data.train,
            world,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            every_steps=config.checkpoint.every_steps,
            keep=config.checkpoint.keep,
            keep_every_epochs=config.checkpoint.keep_every_epochs,
            stop_on_error=config.checkpoint.on_error == "stop",
        )
        resumed = self.saving.resume(say=print)
        if resumed and world.is_main:
            print(f"going on after step {resumed} of {self.total_steps} in {self.output}")
        with world.together():
            if world.is_main:
                described = describe_run(self.output, self.data)
                self._lock = open_run(self.output, config, environment.describe(world.device), described)
        token = world.from_main("" if self._lock is None else self._lock.token)
        with world.together():  # each rank for itself: a folder of that name on each node would lose the results
            if not world.is_main:
                require_shared(self.output, token)

    def _read_further(self, config: Config) -> dict[str, Loader]:
        """The test sets of ``evaluate.also``: as the test images are, all of each or this process's part."""
        world, classes = self.world, config.model.num_classes or self.data.num_classes
        shared = {"eval_batch_size": config.evaluate.batch_size, "order_seed": config.train.seed}
        shared |= {} if self._whole else {"rank": world.rank, "world_size": world.size}
        also = config.evaluate.also
        return further_tests(also, self.data, vars(config.data), classes, device=world.device, **shared)

    def _check_models(self, trained: Mapping[str, nn.Module]) -> None:
        """Find out before the first step whether attack and models suit the data's images, in training too."""
        config, data = self.config, self.data
        check_ball(config.attack.eps, config.attack.step_size, config.attack.norm, data.image_shape)
        sides = {data.image_shape[-1], *config.data.train_sizes}
        shapes = [data.image_shape, *((*data.image_shape[:-2], s, s) for s in sorted(sides - {data.image_shape[-1]}))]
        pass_size = config.data.batch_size // config.train.accumulate
        pass_size *= self.world.size if config.parallel.sync_batchnorm else 1
        for name, model in {**trained, **self.frozen}.items():
            if name in trained and config.train.recompute == "blocks" and not repeated_blocks(model):
                allowed = f"none, natural, model for {self._described[name]}, which is no chain of blocks"
                raise ValueError(f"train.recompute: got 'blocks'; allowed: {allowed}")
            check_model(
                model if config.parallel.strategy in SHARDED else model.to(self.world.device),
                f"models: got {name!r}" if name in self._given else chosen_by(config.model, name),
                shapes,
                num_classes=data.num_classes,
                pass_size=pass_size if name in trained else None,
            )

    @property
    def step(self) -> int:
        """Steps that have been taken."""
        return next(iter(self.learners.values())).steps_taken

    @property
    def models(self) -> dict[str, nn.Module]:
        """The trained models by name, in eval mode: the exported weights once `run` has come to its end."""
        if self._exported is None:
            raise ValueError("models: the run has not come to its end yet; call run() first")
        return self._exported

    _exported: dict[str, nn.Module] | None = None
    _lock: Lock | None = None  # of rank 0

    def run(self) -> int:
        """Train from wherever the run stands, export and evaluate the models; returns the exit code.

        A signal of `act_engine.training.signals.CAUGHT`, on any rank, ends the run on all of them after the same step,
        with a checkpoint and exit code 128 + signal.

        Raises:
            NonFiniteLoss, NonFiniteWeights: the checkpoints before are left as they were.
            OSError: a checkpoint or record could not be written, and ``checkpoint.on_error`` is stop, or a result; the
                older checkpoints are intact.
            ProcessLost: another process died or hung.
        """
        try:
            code = self._train()
            if code == 0:
                with self.world.watched():
                    self._finish()
        finally:
            self.saving.join()
            if self._lock is not None:
                self._lock.release()
        self.world.close()
        return code

    def _train(self) -> int:
        """Take the steps that are left; returns 0, or the exit code of what stopped it."""
        vote = Vote(self.world)
        log = self._open_log() if self.world.is_main else NoLog()
        # The signals outermost: torchrun sends SIGTERM to the survivors of a failure while they find out whose it was.
        with log, caught_signals() as caught, self.world.watched(), self._profiler(log) as profiler:
            clock, verdict = Stopwatch(), 0
            while self.step < self.total_steps and not verdict and not self._out_of_patience():
                for images, labels in self._batches(clock):
                    losses = self.train_step(images, labels)
                    self.pending.add(self.step, losses)
                    self.world.beat(self.step)
                    profiler.step()
                    log.advance()
                    measures = self.saving.ends_epochs(self.step, self.config.checkpoint.best_every_epochs)
                    best = measures and self._measure()
                    if measures or self.step % self.config.train.log_every == 0 or self.step == self.total_steps:
                        self._log(log, clock)
                    if best or self.saving.due(self.step):
                        self._save(log)
                    verdict = vote.cast(self._ballot(log, caught))
                    if verdict or self.step == self.total_steps or self._out_of_patience():
                        break
            verdict = verdict or vote.settle()
            note_replaced(self.output, self.data, self.world, log.say)
            if verdict == WRITE_FAILED:
                return self._fail(log)
            if verdict:
                self._save(log)
                self.saving.finish(log.say)
                name = signal.Signals(verdict).name
                log.say(f"stopped by {name} after step {self.step}; run the same command again to go on")
                return 128 + verdict
            if self.step < self.total_steps:
                log.say(f"ended after step {self.step} of {self.total_steps}: {self._patience()}")
            self._save(log)
            self.saving.join()  # so that the others learn what became of it
            if vote.cast(self._ballot(log, caught=[])) or vote.settle():
                return self._fail(log)
            self.saving.finish(log.say)
        return 0

    def _fail(self, log: RunLog | NoLog) -> int:
        """End at what could not be written, which rank 0 raises."""
        self.saving.finish(log.say)
        if log.error is not None:
            raise log.error
        return 1

    def _open_log(self) -> RunLog:
        header = (
            []
            if self.step >= self.total_steps
            else describe_training(
                self.config,
                self.objective,
                self.data,
                self.world,
                self.output,
                models=self._described,
                step=self.step,
                total_steps=self.total_steps,
            )
        )
        train = self.config.train
        return RunLog(
            self.output,
            self.step,
            self.total_steps,
            epochs=train.epochs,
            header=header,
            kind=train.progress,
            tracker=train.tracker,
            stop_on_error=self.config.checkpoint.on_error == "stop",
        )

    def _out_of_patience(self) -> bool:
        patience, best = self.config.checkpoint.best_patience, self.saving.best
        return patience is not None and best is not None and best["since"] >= patience

    def _patience(self) -> str:
        best = self.saving.best
        return f"{best['since']} measurements on held-out images without a better one than after step {best['step']}"

    def _save(self, log: RunLog | NoLog) -> None:
        if not self.saving.saved(self.step) and self.pending:
            self.pending.fetch()  # a checkpoint holds no step whose loss is not finite
        self.saving.save(self.step, log.say)

    def _profiler(self, log: RunLog | NoLog) -> StepProfile | NoProfile:
        if not (self.profile and self.world.is_main):
            return NoProfile()

        def report(table: str, shares: dict[str, float]) -> None:
            log.say(table)
            self.measured |= {f"profile/{part}": share for part, share in shares.items() if part != "step"}

        return StepProfile(self.output, report)

    def _start(self, name: str, given: Mapping[str, nn.Module] | None) -> nn.Module:
        """The model of that name that is trained, or used: the one given, or built with the weights it starts from."""
        if given is not None:
            return given[name]
        say = print if self.world.is_main else lambda note: None
        return start_model(self.config, name, self.data.image_shape, say)

    def _describe(self, name: str, model: nn.Module) -> str:
        kind = type(model).__name__ if name in self._given else self.config.model.architecture(name)["name"]
        return f"{kind}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters"

    def _model(self, name: str) -> nn.Module:
        """A model of the same architecture, to load trained weights into."""
        if name in self._given:
            return copy.deepcopy(self._given[name])
        return make_model(self.config, name, self.data.image_shape)

    def _batches(self, clock: Stopwatch) -> Iterator[Batch]:
        """The rest of the epoch under way, with the time each batch kept the trainer waiting."""
        batches = self.data.train.epoch(self.step // self.steps_per_epoch)
        while True:
            asked = time.perf_counter()
            with record_function("data wait"):
                batch = next(batches, None)
            if batch is None:
                return
            clock.waited(time.perf_counter() - asked, len(batch.labels))
            yield batch

    def _log(self, log: RunLog | NoLog, clock: Stopwatch) -> None:
        losses = self.pending.fetch()
        speed = clock.lap()
        speed["images_per_second"] *= self.world.size
        record = {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **{f"{name}_loss": value for name, value in losses.items()},
            "lr": next(iter(self.learners.values())).lr_at(self.step - 1),
            **speed,
            **self.measured,
        }
        self.measured = {}
        log.write(record)

    def _ballot(self, log: RunLog | NoLog, caught: list[signal.Signals]) -> int:
        if self.saving.failed or log.error is not None:
            return WRITE_FAILED
        return int(caught[0]) if caught else 0

    def _measure(self) -> bool:
        """Measure the deployed model on the held-out images; returns whether it is the best so far; a collective."""
        name = deployed_model(self.learners)
        tensors, _ = self.learners[name].state_dict()
        checkpoint.require_finite(tensors, f"step {self.step}: the {name} model's")
        attack = "none" if self.config.evaluate.attack == "none" else "pgd"
        chosen = self.config.checkpoint
        settings = {"attack": attack, "steps": chosen.best_steps, "loss": chosen.best_loss, "targets": 0}
        settings |= {"restarts": 1, "step_size": None, "images": None, "check_masking": False}
        settings |= {"corruptions": (), "also": (), "among": "all"}
        if self.config.evaluate.norm == "l1":  # in which there is no PGD
            settings |= {"norm": None, "eps": None}
        settings = dataclasses.replace(self.config.evaluate, **settings)
        model = self._model(name)
        model.load_state_dict(deployed(tensors))
        measured = evaluate_models(
            {name: model.to(self.world.device)},
            self.data.selection,
            self.config.attack,
            settings,
            seed=self.config.train.seed,
            world=self.world,
            whole=self._whole,
        )["models"][name]
        accuracy = measured["robust_accuracy"]
        accuracy = measured["clean_accuracy"] if accuracy is None else accuracy
        names = ("clean_accuracy", "robust_accuracy", "noise_accuracy")
        self.measured |= {f"held_out_{key}": measured[key] for key in names if measured.get(key) is not None}
        best = self.saving.best
        if best is not None and accuracy <= best["accuracy"]:
            self.saving.best = {**best, "since": best.get("since", 0) + 1}
            return False
        self.saving.best = {"step": self.step, "accuracy": accuracy, "since": 0}
        return True

    def _architecture(self, name: str) -> dict[str, str]:
        """What an exported file says of its model, from which `load_model` builds it; nothing of a given module."""
        if name in self._given:
            return {}
        return describe_model(**self.config.model.architecture(name), image_shape=self.data.image_shape)

    def _export(self, states: Mapping[str, dict[str, Tensor]], prefix: str) -> None:
        for name, tensors in states.items():
            file = self.output / f"{prefix}{name}.safetensors"
            try:
                checkpoint.export_weights(file, deployed(tensors), self._architecture(name))
            except OSError as error:
                raise OSError(f"{error}; {self.saving.where(self.step)}") from error

    def _finish(self) -> None:
        """Export the models, the best and the last, measure what was exported, and say so."""
        world, best = self.world, self.saving.best
        states = {name: learner.state_dict(keep=world.is_main)[0] for name, learner in self.learners.items()}
        with world.together():
            if world.is_main:
                if best is not None:
                    self._export(states, LAST)
                    states = self.saving.tensors(best["step"])
                self._export(states, "")
        models, names = {}, list(self.learners)
        if best is not None and best["step"] != self.step:
            names.append(LAST + deployed_model(self.learners))
        with world.together():
            for name in names:
                models[name] = self._model(name.removeprefix(LAST)).to(world.device).eval()
                load_weights(models[name], self.output / f"{name}.safetensors")
        settings, seed = self.config.evaluate, self.config.train.seed
        measured = evaluations(self.output) if world.is_main else []
        found = next((one for one in measured if answers_question(one, models, settings, seed)), None)
        if int(world.gather(torch.tensor([found is not None]).int())[0]):  # the run had come to its end before
            self.evaluation, self._exported = found, {name: models[name] for name in self.learners}
            if world.is_main:
                print(f"\n{format_table(found)}\nrun folder: {self.output}, measured before")
            return
        count = min(self.config.evaluate.images or self.data.test.num_samples, self.data.test.num_samples)
        total = len(models) * count
        kind = self.config.train.progress
        with progress(kind, total, unit="image", what="evaluating", shown=world.is_main) as shown:
            self.evaluation = evaluate_models(
                models,
                self.data.test,
                self.config.attack,
                self.config.evaluate,
                seed=self.config.train.seed,
                world=world,
                state=self.output / MEASURED,
                whole=self._whole,
                further=self.further,
                on_batch=lambda images: shown.advance(images * world.size),
            )
        if best is not None:
            self.evaluation["selection"] = {**best, "images": self.data.selection.num_samples, "last_step": self.step}
        self._exported = {name: models[name] for name in self.learners}
        if world.is_main:
            keep(self.output, self.evaluation)
            try:
                board = open_tracker(self.config.train.tracker, self.output)
                board.write_evaluation(self.evaluation, self.step)
                board.close()
            except OSError as error:
                if self.config.checkpoint.on_error == "stop":
                    raise
                print(f"warning: {error}")
            print(f"\n{format_table(self.evaluation)}\nrun folder: {self.output}")
