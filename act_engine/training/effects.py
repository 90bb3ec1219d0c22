"""What each setting needs to have an effect, and the refusal of one that was given where it can have none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from act_engine.config import Config, flat, given_settings
from act_engine.data import sources
from act_engine.objectives import Objective, objectives

Kind = Objective | type[Objective]


@dataclass(frozen=True)
class Run:
    """What decides whether a setting can have an effect."""

    config: Config
    objective: Kind
    strategy: str
    """``"single"``, ``"ddp"``, ``"fsdp"`` or ``"deepspeed"``."""
    processes: int
    device: str
    """``"cpu"`` or ``"cuda"``."""

    @property
    def attacks(self) -> bool:
        return self.objective.attack_loss != "none"

    @property
    def attacks_a_copy(self) -> bool:
        attack = self.config.attack
        return self.attacks and attack.view and attack.mode == "eval"

    @property
    def attacks_labels(self) -> bool:
        """Whether the attack's loss has a cross-entropy."""
        loss = self.config.attack.loss
        return (self.objective.attack_loss if loss == "auto" else loss) in ("ce", "mixed")

    @property
    def attack_start(self) -> str:
        start = self.config.attack.start
        return self.objective.attack_start if start == "auto" else start

    @property
    def roles(self) -> tuple[str, ...]:
        """The models it has."""
        return (*self.objective.trains, *self.objective.frozen)

    @property
    def measures_by_pgd(self) -> bool:
        """Whether the evaluation runs PGD, alone or beside AutoAttack."""
        settings = self.config.evaluate
        return settings.attack != "none" and (settings.norm or self.config.attack.norm) != "l1"

    def has(self, role: str) -> bool:
        return role in self.roles

    def architectures(self, setting: str) -> bool:
        """Whether ``model.`` `setting`, which is the robust model's, counts for a model that the run has."""
        model = self.config.model
        names = {"natural": model.natural_name, "teacher": model.teacher_name}
        options = {"natural": model.natural_options, "teacher": model.teacher_options}
        same = (None,) if setting == "name" else (None, model.name)
        follow = [role for role in self.roles if names.get(role) in same]
        return any(setting != "options" or options.get(role) is None for role in follow)

    def draws(self) -> bool:
        """Whether anything in the data is drawn at random."""
        data = self.config.data
        source = sources().get(data.name)
        counts = (data.train_samples, data.validation_samples, data.selection_samples, data.holdout)
        chosen = any(count is not None for count in counts) or self.config.checkpoint.best_every_epochs is not None
        return chosen or data.label_noise > 0 or (source is not None and "seed" in source.own_settings)

    def reads(self) -> bool:
        """Whether the data is read by threads of the loader."""
        source = sources().get(self.config.data.name)
        return source is not None and (source.streamed or "workers" in source.own_settings)


Need = tuple[str, Callable[[Run], bool]]

ATTACK: Need = ("an objective with an attack", lambda run: run.attacks)
NATURAL: Need = ("an objective with a natural model", lambda run: run.has("natural"))
ROBUST: Need = ("an objective with a robust model", lambda run: run.has("robust"))
TEACHER: Need = ("an objective with a frozen teacher", lambda run: run.has("teacher"))
MULTISTEP: Need = ("optim.schedule multistep", lambda run: run.config.optim.schedule == "multistep")
ADAMW: Need = ("optim.name adamw", lambda run: run.config.optim.name == "adamw")
COSINE: Need = ("optim.schedule cosine", lambda run: run.config.optim.schedule == "cosine")
ONECYCLE: Need = (
    "optim.schedule onecycle or onecycle_cosine",
    lambda run: run.config.optim.schedule.startswith("onecycle"),
)
EMA: Need = ("train.ema", lambda run: run.config.train.ema is not None)
DEEPSPEED: Need = ("parallel.strategy deepspeed", lambda run: run.strategy == "deepspeed")
PROCESSES: Need = ("more than one process", lambda run: run.processes > 1)
PGD: Need = ("evaluate.attack other than none, and norm linf or l2", lambda run: run.measures_by_pgd)
LIBRARY: Need = ("evaluate.attack autoattack or one of its attacks", lambda run: run.config.evaluate.by_library)
MIXING: Need = ("train.mixup or train.cutmix", lambda run: run.config.train.mixup > 0 or run.config.train.cutmix > 0)
EXTRA: Need = ("data.extra", lambda run: bool(run.config.data.extra))
FILES: Need = ("data that the loader's threads read", Run.reads)

NEEDS: dict[str, Need] = {
    "objective.awp_start_epoch": ("objective.awp_gamma above 0", lambda run: run.config.objective.awp_gamma > 0),
    "attack.norm": (
        "an objective with an attack, or evaluate.norm null",
        lambda run: run.attacks or run.config.evaluate.norm is None,
    ),
    "attack.eps": (
        "an objective with an attack, or evaluate.eps null",
        lambda run: run.attacks or run.config.evaluate.eps is None,
    ),
    "attack.step_size": ATTACK,
    "attack.steps": ATTACK,
    "attack.start": ATTACK,
    "attack.start_eps": (
        "an attack with a uniform start",
        lambda run: run.attacks and run.attack_start == "uniform",
    ),
    "attack.project": ATTACK,
    "attack.warmup_epochs": ATTACK,
    "attack.mode": ATTACK,
    "attack.loss": ATTACK,
    "attack.view": (
        "an attack with attack.mode eval",
        lambda run: run.attacks and run.config.attack.mode == "eval",
    ),
    "attack.fold_batchnorm": (
        "an attack with attack.view true and attack.mode eval, or a frozen teacher",
        lambda run: run.attacks_a_copy or run.has("teacher"),
    ),
    "attack.cuda_graph": (
        "an attack with attack.view true and attack.mode eval, on a GPU",
        lambda run: run.attacks_a_copy and run.device == "cuda",
    ),
    "attack.smooth_labels": (
        "an attack on the cross-entropy, and objective.label_smoothing",
        lambda run: run.attacks_labels and bool(run.config.objective.numbers.get("label_smoothing")),
    ),
    "train.mix_probability": MIXING,
    "train.cutmix_probability": (
        "train.mixup and train.cutmix",
        lambda run: run.config.train.mixup > 0 and run.config.train.cutmix > 0,
    ),
    "data.extra_share": EXTRA,
    "data.extra_once": EXTRA,
    "data.extra_only_epochs": EXTRA,
    "data.epoch_images": EXTRA,
    "data.seed": ("data that draws, or a choice among its images or labels", Run.draws),
    "data.workers": FILES,
    "data.decode": ("image files and a GPU", lambda run: run.reads() and run.device == "cuda"),
    "model.name": ("a model without a name of its own", lambda run: run.architectures("name")),
    "model.options": ("a model without options of its own", lambda run: run.architectures("options")),
    "model.output": ("a model of the architecture model.name", lambda run: run.architectures("output")),
    "model.output_field": ("a model of the architecture model.name", lambda run: run.architectures("output_field")),
    "model.weights": ROBUST,
    "model.weights_entry": ROBUST,
    "model.natural_name": NATURAL,
    "model.natural_options": NATURAL,
    "model.natural_weights": NATURAL,
    "model.teacher_name": TEACHER,
    "model.teacher_options": TEACHER,
    "model.teacher_weights": TEACHER,
    "optim.momentum": (
        "optim.name sgd without optim.cycle_momentum",
        lambda run: run.config.optim.name == "sgd" and not run.config.optim.cycle_momentum,
    ),
    "optim.cycle_momentum": (
        "optim.name sgd with optim.schedule onecycle_cosine",
        lambda run: run.config.optim.name == "sgd" and run.config.optim.schedule == "onecycle_cosine",
    ),
    "optim.nesterov": ("optim.name sgd", lambda run: run.config.optim.name == "sgd"),
    "optim.betas": ADAMW,
    "optim.every": (
        "optim.schedule cosine, onecycle or onecycle_cosine",
        lambda run: run.config.optim.schedule not in ("constant", "multistep"),
    ),
    "optim.decayed": ("optim.weight_decay above 0", lambda run: run.config.optim.weight_decay > 0),
    "optim.peak": ONECYCLE,
    "optim.warmup_epochs": COSINE,
    "optim.warmup_lr": (
        "optim.schedule cosine with warmup_epochs above 0",
        lambda run: run.config.optim.schedule == "cosine" and run.config.optim.warmup_epochs > 0,
    ),
    "optim.final_lr": COSINE,
    "train.ema_start": EMA,
    "train.ema_buffers": EMA,
    "optim.milestones": MULTISTEP,
    "optim.gamma": MULTISTEP,
    "train.recompute": (
        "an objective with a natural model",
        lambda run: run.config.train.recompute != "natural" or run.has("natural"),
    ),
    "parallel.shard_size": ("parallel.strategy fsdp", lambda run: run.strategy == "fsdp"),
    "parallel.zero_stage": DEEPSPEED,
    "parallel.offload": DEEPSPEED,
    "parallel.deepspeed_config": DEEPSPEED,
    "parallel.gather_for_attack": (
        "parallel.strategy fsdp, or deepspeed with zero_stage 3, and an attack",
        lambda run: (
            run.attacks
            and (run.strategy == "fsdp" or (run.strategy == "deepspeed" and run.config.parallel.zero_stage == 3))
        ),
    ),
    "parallel.sync_batchnorm": PROCESSES,
    "evaluate.version": LIBRARY,
    "evaluate.loss": PGD,
    "evaluate.targets": PGD,
    "evaluate.steps": PGD,
    "evaluate.restarts": PGD,
    "evaluate.step_size": PGD,
    "evaluate.check_masking": PGD,
}
"""By setting: what it needs, in words and as a condition.

A setting that is not here has an effect in every run, but for parallel.timeout, which one command gives for any number
of processes. Those of the data are refused by `build_data`, an objective's own numbers by `build_objective`."""


def refuse_idle_evaluation(config: Config) -> None:
    """`refuse_idle` for the settings of the evaluation alone, which depend on no objective and no strategy."""
    refuse_idle(Run(config, Objective, "single", 1, "cpu"), groups=["evaluate"])


def refuse_idle(run: Run, *, groups: Iterable[str] | None = None) -> None:
    """Refuse a setting that was given, with a value other than its default, and can have no effect in the run.

    What a recipe or a file gave, and a later choice made idle, is no mistake: a setting is refused if it had no effect
    in the layer that gave it either. Of a config that was not read from a mapping nothing is known, so nothing refused.

    Args:
        groups: look at these groups of settings alone; None: at all.

    Raises:
        ValueError: in one line, with what the setting needs.
    """
    usual = flat(Config())
    for layer, given in given_settings(run.config):
        there = _in_layer(run, layer)
        for name, value in given.items():
            if name not in NEEDS or value == usual[name] or (groups and name.split(".")[0] not in groups):
                continue
            need, holds = NEEDS[name]
            if not holds(run) and not holds(there):
                raise ValueError(f"{name}: got {value!r}; allowed: {usual[name]!r}, for it needs {need}")


def _in_layer(run: Run, layer: Config) -> Run:
    """The run as it would be with the settings of that layer alone."""
    kind: Any = run.objective
    if layer.objective.name != run.config.objective.name:
        kind = objectives().get(layer.objective.name, kind)
    strategy = layer.parallel.strategy
    if strategy == "auto":
        strategy = "single" if run.processes == 1 else "ddp"
    return Run(layer, kind, strategy, run.processes, run.device)
