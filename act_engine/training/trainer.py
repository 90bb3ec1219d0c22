"""The training loop."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from tqdm import tqdm

from act_engine.attack import Attack, AttackView
from act_engine.config import Config
from act_engine.data import Batch, build_data
from act_engine.evaluation import check_evaluation, evaluate_models, find_evaluation, format_table
from act_engine.learners import Learner, build_learner, deployed, lr_schedule
from act_engine.models import build_model, describe_model, load_pretrained, load_weights
from act_engine.objectives import build_objective
from act_engine.parallel import Vote, connect
from act_engine.runs import environment
from act_engine.runs.folder import EVALUATION, MEASURED, check_run, open_run, write_json
from act_engine.runs.methods import deployed_model
from act_engine.training import checkpoint
from act_engine.training.awp import WeightPerturbation
from act_engine.training.profiling import OBJECTIVE, NoProfile, StepProfile
from act_engine.training.resolve import resolve
from act_engine.training.runlog import NoLog, RunLog, Stopwatch
from act_engine.training.seeds import stream
from act_engine.training.signals import caught_signals

CHECKPOINT_FAILED = 128  # in the ranks' vote, above every signal's number


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message says where and what to try."""


class Trainer:
    """One run, from its config to its measured models, on this process's share of it.

    Building it checks everything a user may have got wrong, goes on from the newest checkpoint, and makes or reopens
    the run's folder, as the last act. Rank 0 alone writes and prints.

    Raises:
        ValueError, OSError: a user's mistake, in one line.
    """

    def __init__(self, config: Config, output: Path, *, profile: bool = False) -> None:
        device = environment.pick_device(config.train.device)
        parallel = config.parallel
        self.world = world = connect(device, timeout=parallel.timeout, distributed=parallel.strategy == "deepspeed")
        self.output, self.profile = Path(output), profile
        with world.together():
            self.objective = build_objective(**config.objective.method())
            self.data = build_data(
                **vars(config.data),
                eval_batch_size=config.evaluate.batch_size,
                order_seed=config.train.seed,
                device=world.device,
                rank=world.rank,
                world_size=world.size,
            )
            self.config = config = resolve(config, self.objective, world, self.data.num_classes)
            check_evaluation(config.evaluate, config.model.num_classes)
            self.steps_per_epoch = len(self.data.train)
            self.total_steps = min(self.steps_per_epoch * config.train.epochs, config.train.max_steps or 2**62)
            models = {name: self._start(name) for name in self.objective.trains}
            self.frozen = {name: self._start(name).to(world.device) for name in self.objective.frozen}
            if world.is_main:
                check_run(self.output, config)
        self.learners = {name: self._learner(name, model) for name, model in models.items()}
        self.passes = {name: record_function(f"{name} forward")(learner) for name, learner in self.learners.items()}
        self.passes |= {name: self._frozen_pass(model) for name, model in self.frozen.items()}
        self.generator = torch.Generator(world.device)
        self.attack, self.awp = self._attack(), self._awp()
        self.step, self.saved_step = 0, 0
        self.best: dict[str, Any] | None = None  # step and robust accuracy
        self.measured: dict[str, float] = {}  # since the last line of metrics
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.writer = checkpoint.Writer(self.output / "checkpoints", config.checkpoint.keep)
        self._resume()
        with world.together():
            if world.is_main:
                open_run(self.output, config, environment.describe(world.device))

    def run(self) -> int:
        """Train from wherever the run stands, export and evaluate the models; returns the exit code.

        SIGINT and SIGTERM, on any rank, end the run on all of them after the same step, with a checkpoint and exit code
        128 + signal.

        Raises:
            NonFiniteLoss: the last checkpoint is left as it was.
            OSError: a checkpoint could not be written, and ``checkpoint.on_error`` is stop; the older ones are intact.
            ProcessLost: another process died or hung.
        """
        try:
            code = self._train()
            if code == 0:
                with self.world.watched():
                    self._finish()
        finally:
            self.writer.join()
        self.world.close()
        return code

    def _train(self) -> int:
        """Take the steps that are left; returns 0, or the exit code of what stopped it."""
        vote = Vote(self.world)
        log = RunLog(self.output, self.step, self.total_steps) if self.world.is_main else NoLog()
        # The signals outermost: torchrun sends SIGTERM to the survivors of a failure while they find out whose it was.
        with log, caught_signals() as caught, self.world.watched(), self._profiler(log) as profiler:
            clock, verdict = Stopwatch(), 0
            while self.step < self.total_steps and not verdict:
                for images, labels in self._batches(clock):
                    self.pending.append((self.step, self.train_step(images, labels)))
                    self.step += 1
                    self.world.beat(self.step)
                    profiler.step()
                    log.advance()
                    if self.step % self.config.train.log_every == 0 or self.step == self.total_steps:
                        self._log(log, clock)
                    best = self._measure()
                    if best or self._checkpoint_due():
                        self._save(log)
                    verdict = vote.cast(self._ballot(caught))
                    if verdict or self.step == self.total_steps:
                        break
            verdict = verdict or vote.settle()
            if verdict == CHECKPOINT_FAILED:
                self._end_writing(log)
                return 1
            if verdict:
                self._save(log)
                self._end_writing(log)
                name = signal.Signals(verdict).name
                log.say(f"stopped by {name} after step {self.step}; run the same command again to go on")
                return 128 + verdict
            with self.world.together():
                self._end_writing(log)
        return 0

    def _profiler(self, log: RunLog | NoLog) -> StepProfile | NoProfile:
        if not (self.profile and self.world.is_main):
            return NoProfile()

        def report(table: str, shares: dict[str, float]) -> None:
            log.say(table)
            self.measured |= {f"profile/{part}": share for part, share in shares.items() if part != "step"}

        return StepProfile(self.output, report)

    def train_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update of every model; returns this process's losses, without waiting for the device.

        Every random draw is a function of (seed, step), so a resumed run repeats the step that was lost.
        """
        seed, rank, accumulate = self.config.train.seed, self.world.rank, self.config.train.accumulate
        torch.manual_seed(stream(seed, self.step, f"models {rank}"))
        self.generator.manual_seed(stream(seed, self.step, "attack"))
        size = len(labels) // accumulate
        parts = []
        for index in range(accumulate):
            if self.attack is not None:
                self.attack.position = rank * len(labels) + index * size
            part = slice(index * size, (index + 1) * size)
            losses = self._losses(images[part], labels[part])
            with record_function("backwards"):
                for name, learner in self.learners.items():
                    learner.backward(losses[name])
            if self.awp is not None:
                self.awp.remove()
            parts.append({name: loss.detach() for name, loss in losses.items()})
        with record_function("optimizers"):
            for learner in self.learners.values():
                learner.step()
        return parts[0] if accumulate == 1 else {k: sum(part[k] for part in parts) / accumulate for k in parts[0]}

    @record_function(OBJECTIVE)
    def _losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.awp is not None and self.step >= self.config.objective.awp_start_epoch * self.steps_per_epoch:
            return self.awp.losses(self.objective, self.passes, self.attack, images, labels)
        return self.objective.losses(self.passes, self.attack, images, labels)

    def _model(self, name: str) -> nn.Module:
        torch.manual_seed(stream(self.config.train.seed, 0, f"init {name}"))
        return build_model(**self.config.model.architecture(name), image_shape=self.data.image_shape)

    def _start(self, name: str) -> nn.Module:
        """A model with the weights that it starts from."""
        model, module, notes = self.config.model, self._model(name), []
        files = {"robust": model.weights, "natural": model.natural_weights, "teacher": model.teacher_weights}
        new_head = model.head == "new" and name != "teacher"
        if files[name] is not None:
            entry = model.weights_entry if name == "robust" else None
            notes = load_weights(module, files[name], new_head=new_head, entry=entry)
        elif model.pretrained and name != "teacher":
            given = model.architecture(name)
            notes = load_pretrained(
                module, given["name"], image_shape=self.data.image_shape, options=given["options"], new_head=new_head
            )
        if self.world.is_main:
            for note in notes:
                print(f"{name} model: {note}")
        return module

    def _learner(self, name: str, model: nn.Module) -> Learner:
        optim, train, parallel = self.config.optim, self.config.train, self.config.parallel
        lr_at = lr_schedule(
            optim.schedule,
            lr=optim.lr,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            milestones=optim.milestones,
            gamma=optim.gamma,
        )
        return build_learner(
            parallel.strategy,
            model,
            self.world,
            zero_stage=parallel.zero_stage,
            offload=parallel.offload == "optimizer",
            gather_for_attack=parallel.gather_for_attack,
            deepspeed_config=parallel.deepspeed_config,
            sync_batchnorm=parallel.sync_batchnorm,
            batch_size=self.config.data.batch_size // train.accumulate,
            lr_at=lr_at,
            optimizer=optim.name,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            precision=train.precision,
            channels_last=train.channels_last,
            compile=train.compile,
            accumulate=train.accumulate,
            recompute=train.recompute_natural and name == "natural",
            clip_norm=optim.clip_norm,
            ema_decay=train.ema if name == deployed_model(self.objective.trains) else None,
        )

    def _attack(self) -> Attack | None:
        if self.objective.attack_loss == "none":
            return None
        settings, robust = self.config.attack, self.learners["robust"]
        kl_weight, ce_weight = self.objective.attack_weights(settings.loss, self.config.data.batch_size)
        return Attack(
            robust.attack_view(fold=settings.fold_batchnorm) if settings.view else robust.live_view(),
            kl_weight=kl_weight,
            ce_weight=ce_weight,
            start=settings.start,
            steps=settings.steps,
            step_size=settings.step_size,
            eps=settings.eps,
            norm=settings.norm,
            generator=self.generator,
            total=self.config.data.batch_size * self.world.size,
            cuda_graph=settings.cuda_graph and settings.view,
        )

    def _awp(self) -> WeightPerturbation | None:
        name = deployed_model(self.learners)
        gamma = self.config.objective.awp_gamma
        return WeightPerturbation(self.learners[name], name, gamma) if gamma else None

    def _frozen_pass(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """A model that is not trained as the objective calls it: through a fast view, without a graph."""
        train = self.config.train
        view = AttackView(
            model,
            precision=train.precision,
            fold=self.config.attack.fold_batchnorm,
            channels_last=train.channels_last,
            compile=train.compile,
        )
        return record_function("teacher forward")(torch.no_grad()(view))

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
        losses = self._fetch_losses()
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

    def _fetch_losses(self) -> dict[str, float]:
        """The mean over ranks and steps of each loss since the last call; raises NonFiniteLoss, on every rank."""
        names = list(self.pending[0][1])
        rows = torch.stack([torch.stack([losses[name] for name in names]) for _, losses in self.pending]).cpu()
        ranks = self.world.gather(rows)  # [rank, step, name]
        bad = (~ranks.isfinite()).any(2).nonzero()
        if len(bad):
            rank, index = bad[bad[:, 1].argmin()].tolist()
            values = zip(names, ranks[rank, index].tolist(), strict=True)
            shown = ", ".join(f"{name} loss {value}" for name, value in values)
            where = f" on rank {rank}" if self.world.size > 1 else ""
            raise NonFiniteLoss(
                f"step {self.pending[index][0] + 1}{where}: {shown}; the checkpoints before it are intact. Try a lower "
                "optim.lr, or train.precision float32, and look for bad images"
            )
        self.pending.clear()
        return dict(zip(names, ranks.mean((0, 1)).tolist(), strict=True))

    def _ballot(self, caught: list[signal.Signals]) -> int:
        if self.writer.error is not None and self.config.checkpoint.on_error == "stop":
            return CHECKPOINT_FAILED
        return int(caught[0]) if caught else 0

    def _ends_epochs(self, count: int | None) -> bool:
        return count is not None and self.step % (count * self.steps_per_epoch) == 0

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoint.every_steps or self.steps_per_epoch
        kept = self._ends_epochs(self.config.checkpoint.keep_every_epochs)
        return self.step % every == 0 or self.step == self.total_steps or kept

    def _save(self, log: RunLog | NoLog) -> None:
        """Copy everything to the host and have it written; a collective. A failed write goes into the ranks' vote."""
        if self.step == self.saved_step:
            return
        if self.pending:
            self._fetch_losses()
        states = {name: learner.state_dict(keep=self.world.is_main) for name, learner in self.learners.items()}
        self.saved_step = self.step
        if not self.world.is_main:
            return
        self.writer.join()
        if self.writer.error is not None:
            if self.config.checkpoint.on_error == "stop":
                return
            log.say(f"warning: {self.writer.take_error()}; going on without that checkpoint")
        values: dict[str, Any] = {"step": self.step, "data": self.data.train.state_dict(), "best": self.best}
        values["learners"] = {name: plain for name, (_, plain) in states.items()}
        self.writer.save(self.step, {name: group for name, (group, _) in states.items()}, values, self._kept_for_good())

    def _kept_for_good(self) -> set[int]:
        every = self.config.checkpoint.keep_every_epochs
        steps = set() if every is None else set(range(0, self.step + 1, every * self.steps_per_epoch))
        return steps if self.best is None else steps | {self.best["step"]}

    def _end_writing(self, log: RunLog | NoLog) -> None:
        """Wait for the last checkpoint; raises OSError if it failed and the run is to stop at that."""
        self.writer.join()
        error = self.writer.take_error()
        if error is not None and self.config.checkpoint.on_error == "stop":
            raise error
        if error is not None:
            log.say(f"warning: {error}; the last checkpoint is missing")

    def _measure(self) -> bool:
        """At the end of every ``best_every_epochs``: whether the robust model is the best so far; a collective."""
        if not self._ends_epochs(self.config.checkpoint.best_every_epochs):
            return False
        name = deployed_model(self.learners)
        tensors, _ = self.learners[name].state_dict()
        attack = "none" if self.config.evaluate.attack == "none" else "pgd"
        settings = {"attack": attack, "steps": 10, "restarts": 1, "step_size": None, "check_masking": False}
        if self.config.evaluate.norm == "l1":  # in which there is no PGD
            settings |= {"norm": None, "eps": None}
        settings = dataclasses.replace(self.config.evaluate, **settings)
        model = self._model(name)
        model.load_state_dict(deployed(tensors))
        measured = evaluate_models(
            {name: model.to(self.world.device)},
            self.data.test,
            self.config.attack,
            settings,
            seed=self.config.train.seed,
            world=self.world,
        )["models"][name]
        accuracy = measured["robust_accuracy"]
        accuracy = measured["clean_accuracy"] if accuracy is None else accuracy
        self.measured = {key: value for key, value in measured.items() if isinstance(value, float)}
        if self.best is not None and accuracy <= self.best["accuracy"]:
            return False
        self.best = {"step": self.step, "accuracy": accuracy}
        return True

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one, of whatever strategy and world size."""
        root, newest = self.output / "checkpoints", None
        with self.world.together():
            if self.world.is_main:
                newest = checkpoint.find_newest(root, warn=lambda message: print(f"warning: {message}"))
        step = -1 if newest is None else int(newest.name.removeprefix("step-"))
        step = int(self.world.gather(torch.tensor([step]))[0])
        if step < 0:
            return
        with self.world.together():
            tensors, values = checkpoint.load(root / f"step-{step}")
            self.data.train.load_state_dict(values["data"])
        for name, learner in self.learners.items():
            learner.load_state_dict(tensors[name], values["learners"][name])
        self.step, self.best = values["step"], values["best"]
        self.saved_step = self.step
        if self.world.is_main:
            print(f"going on after step {self.step} of {self.total_steps} in {self.output}")

    def _finish(self) -> None:
        """Export the models, measure what was exported, and say so."""
        world = self.world
        states = {name: learner.state_dict(keep=world.is_main)[0] for name, learner in self.learners.items()}
        with world.together():
            for name, tensors in states.items():
                if world.is_main:
                    architecture = describe_model(
                        **self.config.model.architecture(name), image_shape=self.data.image_shape
                    )
                    checkpoint.export_weights(self.output / f"{name}.safetensors", deployed(tensors), architecture)
        models = {}
        with world.together():
            for name in self.learners:
                models[name] = self._model(name).to(world.device)
                load_weights(models[name], self.output / f"{name}.safetensors")
        settings, seed = self.config.evaluate, self.config.train.seed
        found = find_evaluation(self.output / EVALUATION, models, settings, seed) if world.is_main else None
        if int(world.gather(torch.tensor([found is not None]).int())[0]):  # the run had come to its end before
            if world.is_main:
                print(f"\n{format_table(found)}\nrun folder: {self.output}, measured before")
            return
        count = min(self.config.evaluate.images or self.data.test.num_samples, self.data.test.num_samples)
        total = len(models) * count
        with tqdm(total=total, desc="evaluating", unit="image", disable=not world.is_main) as bar:
            evaluation = evaluate_models(
                models,
                self.data.test,
                self.config.attack,
                self.config.evaluate,
                seed=self.config.train.seed,
                world=world,
                state=self.output / MEASURED,
                on_batch=lambda images: bar.update(images * world.size),
            )
        if world.is_main:
            write_json(self.output / EVALUATION, evaluation)
            print(f"\n{format_table(evaluation)}\nrun folder: {self.output}")
