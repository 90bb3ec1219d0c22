"""The training loop."""

import dataclasses
import hashlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from act_engine import checkpoint, environment
from act_engine.attack import Attack, AttackView, LiveView
from act_engine.config import Config
from act_engine.data import Batch, build_data
from act_engine.evaluation import evaluate_models, format_table
from act_engine.logging import RunLog, Stopwatch
from act_engine.models import build_model
from act_engine.objectives import Objective, build_objective
from act_engine.parallel import Learner, lr_schedule
from act_engine.runfolder import EVALUATION, open_run, write_json


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite; the message says where and what to try."""


class Trainer:
    """One run, from its config to its measured models.

    Building it checks everything a user may have got wrong and makes or reopens the run's folder, as the last act.

    Raises:
        ValueError, OSError: a user's mistake, in one line.
    """

    def __init__(self, config: Config, output: Path) -> None:
        device = environment.pick_device(config.train.device)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("torchrun --nproc-per-node: more than 1 process is not supported yet; use 1")
        self.objective = build_objective(**vars(config.objective))
        self.data = build_data(
            **vars(config.data), eval_batch_size=config.evaluate.batch_size, seed=config.train.seed, device=device
        )
        self.config = config = resolve(config, self.objective, device, self.data.num_classes)
        self.steps_per_epoch = len(self.data.train)
        self.total_steps = min(self.steps_per_epoch * config.train.epochs, config.train.max_steps or 2**62)
        self.learners = {name: self._learner(name, device) for name in self.objective.trains}
        self.generator = torch.Generator(device)
        self.attack = self._attack()
        self.step = 0
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.output = Path(output)
        open_run(self.output, config, environment.describe(device))

    def run(self) -> int:
        """Train from wherever the run stands, export and evaluate the models; returns the exit code.

        SIGINT and SIGTERM end the run after the step under way, with a checkpoint and exit code 128 + signal.

        Raises:
            NonFiniteLoss: the last checkpoint is left as it was.
        """
        self._resume()
        with RunLog(self.output, self.step, self.total_steps) as log, _caught_signals() as caught:
            clock = Stopwatch()
            while self.step < self.total_steps and not caught:
                for images, labels in self._batches(clock):
                    self.pending.append((self.step, self.train_step(images, labels)))
                    self.step += 1
                    log.advance()
                    if self.step % self.config.train.log_every == 0 or self.step == self.total_steps:
                        self._log(log, clock)
                    if self._checkpoint_due():
                        self._save()
                    if caught or self.step == self.total_steps:
                        break
            if caught:
                self._save()
                log.say(f"stopped by {caught[0].name} after step {self.step}; run the same command again to go on")
                return 128 + caught[0]
        self._finish()
        return 0

    def train_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update of every model; returns the losses, without waiting for the device.

        Every random draw is a function of (seed, step), so a resumed run repeats the step that was lost.
        """
        torch.manual_seed(stream(self.config.train.seed, self.step, "models"))
        self.generator.manual_seed(stream(self.config.train.seed, self.step, "attack"))
        losses = self.objective.losses(self.learners, self.attack, images, labels)
        for name, learner in self.learners.items():
            learner.backward(losses[name])
        for learner in self.learners.values():
            learner.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _learner(self, name: str, device: torch.device) -> Learner:
        model, optim, train = self.config.model, self.config.optim, self.config.train
        torch.manual_seed(stream(train.seed, 0, f"init {name}"))
        architecture = (model.natural_name or model.name) if name == "natural" else model.name
        module = build_model(architecture, num_classes=model.num_classes, image_shape=self.data.image_shape)
        lr_at = lr_schedule(
            optim.schedule,
            lr=optim.lr,
            steps_per_epoch=self.steps_per_epoch,
            total_steps=self.total_steps,
            milestones=optim.milestones,
            gamma=optim.gamma,
        )
        return Learner(
            module,
            lr_at=lr_at,
            optimizer=optim.name,
            momentum=optim.momentum,
            weight_decay=optim.weight_decay,
            precision=train.precision,
            channels_last=train.channels_last,
            compile=train.compile,
            device=device,
        )

    def _attack(self) -> Attack | None:
        if self.objective.attack_loss == "none":
            return None
        settings, train, robust = self.config.attack, self.config.train, self.learners["robust"]
        if settings.view:
            view: AttackView | LiveView = AttackView(
                robust.module,
                precision=train.precision,
                fold=settings.fold_batchnorm,
                channels_last=train.channels_last,
                compile=train.compile,
            )
        else:
            view = LiveView(robust.module, robust)
        kl_weight, ce_weight = self.objective.attack_weights(settings.loss, self.config.data.batch_size)
        return Attack(
            view,
            kl_weight=kl_weight,
            ce_weight=ce_weight,
            start=settings.start,
            steps=settings.steps,
            step_size=settings.step_size,
            eps=settings.eps,
            norm=settings.norm,
            generator=self.generator,
            cuda_graph=settings.cuda_graph and settings.view,
        )

    def _batches(self, clock: Stopwatch) -> Iterator[Batch]:
        """The rest of the epoch under way, with the time each batch kept the trainer waiting."""
        batches = self.data.train.epoch(self.step // self.steps_per_epoch)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            clock.waited(time.perf_counter() - asked, len(batch.labels))
            yield batch

    def _log(self, log: RunLog, clock: Stopwatch) -> None:
        losses = self._fetch_losses()
        record = {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch,
            **{f"{name}_loss": value for name, value in losses.items()},
            "lr": next(iter(self.learners.values())).lr_at(self.step - 1),
            **clock.lap(),
        }
        log.write(record)

    def _fetch_losses(self) -> dict[str, float]:
        """The mean of each loss since the last call, fetched from the device at once; raises NonFiniteLoss."""
        names = list(self.pending[0][1])
        rows = torch.stack([torch.stack([losses[name] for name in names]) for _, losses in self.pending]).tolist()
        for (step, _), row in zip(self.pending, rows, strict=True):
            if not all(abs(value) < float("inf") for value in row):
                shown = ", ".join(f"{name} loss {value}" for name, value in zip(names, row, strict=True))
                raise NonFiniteLoss(
                    f"step {step + 1}: {shown}; the checkpoints before it are intact. Try a lower optim.lr, or "
                    "train.precision float32, and look for bad images"
                )
        self.pending.clear()
        return {name: sum(column) / len(rows) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def _checkpoint_due(self) -> bool:
        every = self.config.checkpoint.every_steps or self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def _save(self) -> None:
        if self.pending:
            self._fetch_losses()
        states = {name: learner.state_dict() for name, learner in self.learners.items()}
        values: dict[str, Any] = {"step": self.step, "data": self.data.train.state_dict()}
        values["learners"] = {name: plain for name, (_, plain) in states.items()}
        tensors = {name: group for name, (group, _) in states.items()}
        checkpoint.save(self.output / "checkpoints", self.step, tensors, values, self.config.checkpoint.keep)

    def _resume(self) -> None:
        newest = checkpoint.load_newest(self.output / "checkpoints", warn=lambda message: print(f"warning: {message}"))
        if newest is None:
            return
        tensors, values = newest
        for name, learner in self.learners.items():
            learner.load_state_dict(tensors[name], values["learners"][name])
        self.data.train.load_state_dict(values["data"])
        self.step = values["step"]
        print(f"going on after step {self.step} of {self.total_steps} in {self.output}")

    def _finish(self) -> None:
        for name, learner in self.learners.items():
            checkpoint.export_weights(self.output / f"{name}.safetensors", learner.module.state_dict())
        models = {name: learner.module for name, learner in self.learners.items()}
        with tqdm(total=len(models) * self.data.test.num_samples, desc="evaluating", unit="image") as bar:
            evaluation = evaluate_models(
                models,
                self.data.test,
                self.config.attack,
                self.config.evaluate,
                seed=self.config.train.seed,
                on_batch=bar.update,
            )
        write_json(self.output / EVALUATION, evaluation)
        print(f"\n{format_table(evaluation)}\nrun folder: {self.output}")


def resolve(config: Config, objective: Objective, device: torch.device, num_classes: int) -> Config:
    """The config with every automatic setting replaced by what it comes to."""
    classes = config.model.num_classes or num_classes
    if classes < num_classes:
        raise ValueError(f"model.num_classes: got {classes}; the data has {num_classes} classes, so at least that many")
    attack = config.attack
    if objective.attack_loss != "none":
        loss = objective.attack_loss if attack.loss == "auto" else attack.loss
        start = objective.attack_start if attack.start == "auto" else attack.start
        objective.attack_weights(loss, config.data.batch_size)  # refuses a loss that the objective does not have
        attack = dataclasses.replace(attack, loss=loss, start=start)
    return dataclasses.replace(
        config,
        attack=attack,
        model=dataclasses.replace(config.model, num_classes=classes),
        train=dataclasses.replace(config.train, device=device.type),
    )


def stream(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose at one step of a run; different arguments give unrelated streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def _caught_signals() -> Iterator[list[signal.Signals]]:
    """The SIGINT and SIGTERM signals received inside, in order; a second one acts as it did before."""
    received: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(signal.Signals(number))
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
