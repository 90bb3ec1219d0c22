"""The one place where a run's settings become the keywords of its parts."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from act_engine.attack import Attack, AttackView, LiveView
from act_engine.config import Config, ModelConfig
from act_engine.data import Data, build_data
from act_engine.learners import Learner, build_learner, lr_schedule, momentum_cycle
from act_engine.models import build_model, load_pretrained, load_weights
from act_engine.objectives import Objective
from act_engine.parallel import World
from act_engine.runs.methods import deployed_model
from act_engine.training.awp import WeightPerturbation
from act_engine.training.mixing import Mixing
from act_engine.training.seeds import stream
from act_engine.training.step import TrainingStep


def make_data(config: Config, world: World) -> Data:
    """The data set of the settings, as this rank sees it."""
    return build_data(
        **vars(config.data),
        eval_batch_size=config.evaluate.batch_size,
        order_seed=config.train.seed,
        selection=config.checkpoint.best_every_epochs is not None,
        device=world.device,
        rank=world.rank,
        world_size=world.size,
    )


def make_model(config: Config, name: str, image_shape: tuple[int, int, int]) -> nn.Module:
    """The model called `name`, ``"robust"``, ``"natural"`` or ``"teacher"``, freshly initialised."""
    torch.manual_seed(stream(config.train.seed, 0, f"init {name}"))
    try:
        return build_model(**config.model.architecture(name), image_shape=image_shape)
    except ValueError as error:
        if getattr(config.model, f"{name}_name", None) is None:  # the robust model's settings are this one's too
            raise
        message = (
            str(error).replace("model.name", f"model.{name}_name").replace("model.options", f"model.{name}_options")
        )
        raise ValueError(message) from error


def chosen_by(settings: ModelConfig, name: str) -> str:
    """The setting that chose the model called `name`, with its value, as a message begins: ``model.name: got 'x'``."""
    setting = f"{name}_name" if getattr(settings, f"{name}_name", None) is not None else "name"
    return f"model.{setting}: got {settings.architecture(name)['name']!r}"


def start_model(config: Config, name: str, image_shape: tuple[int, int, int], say: Callable[[str], None]) -> nn.Module:
    """The model called `name` with the weights that the run starts it from; `say` is told how they were read."""
    settings, module, notes = config.model, make_model(config, name, image_shape), []
    files = {"robust": settings.weights, "natural": settings.natural_weights, "teacher": settings.teacher_weights}
    new_head = settings.head == "new" and name != "teacher"
    if files[name] is not None:
        entry = settings.weights_entry if name == "robust" else None
        notes = load_weights(module, files[name], new_head=new_head, entry=entry)
    elif settings.pretrained and name != "teacher":
        given = settings.architecture(name)
        notes = load_pretrained(
            module, given["name"], image_shape=image_shape, options=given["options"], new_head=new_head
        )
    for note in notes:
        say(f"{name} model: {note}")
    return module


def check_given(models: Mapping[str, nn.Module] | None, objective: Objective) -> dict[str, nn.Module]:
    """The models that a caller gave for an objective, by name; empty for None.

    Raises:
        ValueError: one that is trained is missing, one is given that the objective does not have, or two share weights.
    """
    if models is None:
        return {}
    known = (*objective.trains, *objective.frozen)
    for name in models:
        if name not in known:
            raise ValueError(f"models: got a model named {name!r}; allowed with this objective: {', '.join(known)}")
    for name in known:
        if name not in models:
            raise ValueError(f"models: got {', '.join(models) or 'none'}; this objective needs {', '.join(known)}")
    owners: dict[int, str] = {}
    for name, model in models.items():
        for parameter in model.parameters():
            other = owners.setdefault(id(parameter), name)
            if other != name:
                raise ValueError(f"models: got {other!r} and {name!r} that share weights; allowed: models of their own")
    return dict(models)


def make_learners(
    config: Config, models: Mapping[str, nn.Module], world: World, *, steps_per_epoch: int
) -> dict[str, Learner]:
    """What trains each of the models that the objective trains, by its name; the deployed one is averaged.

    The learning rate follows ``train.epochs`` alone: a run that ``train.max_steps`` stops goes on at the same rates.
    """
    averaged = deployed_model(models)
    return {
        name: _make_learner(config, name, model, world, name == averaged, steps_per_epoch)
        for name, model in models.items()
    }


def _make_learner(
    config: Config, name: str, model: nn.Module, world: World, averaged: bool, steps_per_epoch: int
) -> Learner:
    optim, train, parallel = config.optim, config.train, config.parallel
    total_steps = steps_per_epoch * train.epochs
    lr_at = lr_schedule(
        optim.schedule,
        lr=optim.lr,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        milestones=optim.milestones,
        gamma=optim.gamma,
        peak=optim.peak,
        warmup_epochs=optim.warmup_epochs,
        warmup_lr=optim.warmup_lr,
        final_lr=optim.final_lr,
        every=optim.every,
    )
    cycle = None
    if optim.cycle_momentum and optim.schedule == "onecycle_cosine":
        cycle = momentum_cycle(
            steps_per_epoch=steps_per_epoch, total_steps=total_steps, peak=optim.peak, every=optim.every
        )
    return build_learner(
        parallel.strategy,
        model,
        world,
        zero_stage=parallel.zero_stage,
        offload=parallel.offload == "optimizer",
        gather_for_attack=parallel.gather_for_attack,
        deepspeed_config=parallel.deepspeed_config,
        sync_batchnorm=parallel.sync_batchnorm,
        shard_size=parallel.shard_size,
        batch_size=config.data.batch_size // train.accumulate,
        lr_at=lr_at,
        optimizer=optim.name,
        momentum=optim.momentum if cycle is None else cycle,
        nesterov=optim.nesterov,
        betas=optim.betas,
        weight_decay=optim.weight_decay,
        decayed=optim.decayed,
        precision=train.precision,
        channels_last=train.channels_last,
        compile=train.compile,
        accumulate=train.accumulate,
        recompute={"natural": "model" if name == "natural" else "none"}.get(train.recompute, train.recompute),
        clip_norm=optim.clip_norm,
        ema_decay=train.ema if averaged else None,
        ema_start=train.ema_start * total_steps,
        ema_buffers=train.ema_buffers,
        batchnorm_momentum=train.batchnorm_momentum,
        batchnorm_first=train.batchnorm_first,
    )


def make_attack(config: Config, objective: Objective, robust: Learner, world: World) -> Attack:
    """The inner maximisation of an objective that has one, on the robust model."""
    settings = config.attack
    if settings.mode == "train":
        view: AttackView | LiveView = robust.live_view(train=True)
    else:
        view = robust.attack_view(fold=settings.fold_batchnorm) if settings.view else robust.live_view()
    kl_weight, ce_weight = objective.attack_weights(settings.loss, config.data.batch_size)
    return Attack(
        view,
        kl_weight=kl_weight,
        ce_weight=ce_weight,
        start=settings.start,
        start_eps=settings.start_eps,
        label_smoothing=getattr(objective, "label_smoothing", 0.0) if settings.smooth_labels else 0.0,
        project=settings.project,
        steps=settings.steps,
        step_size=settings.step_size,
        eps=settings.eps,
        norm=settings.norm,
        generator=torch.Generator(world.device),
        cuda_graph=settings.cuda_graph and settings.view,
    )


def make_step(
    config: Config,
    objective: Objective,
    learners: Mapping[str, Learner],
    frozen: Mapping[str, nn.Module],
    world: World,
    *,
    steps_per_epoch: int,
) -> TrainingStep:
    """The training step of the settings, with `frozen` models that lie on their device already."""
    attack = None
    if objective.attack_loss != "none":
        attack = make_attack(config, objective, learners["robust"], world)
    perturbation = None
    if config.objective.awp_gamma:
        name = deployed_model(learners)
        perturbation = WeightPerturbation(learners[name], name, config.objective.awp_gamma)
    train, mixing = config.train, None
    if train.mixup or train.cutmix:
        mixing = Mixing(train.mixup, train.cutmix, train.mix_probability, train.cutmix_probability, train.seed)
    return TrainingStep(
        objective,
        learners,
        attack,
        frozen={name: frozen_pass(config, model) for name, model in frozen.items()},
        perturbation=perturbation,
        perturbation_start=config.objective.awp_start_epoch * steps_per_epoch,
        mixing=mixing,
        attack_warmup=config.attack.warmup_epochs * steps_per_epoch,
        seed=config.train.seed,
        rank=world.rank,
        accumulate=config.train.accumulate,
    )


def frozen_pass(config: Config, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model that is not trained as the objective calls it: through a fast view, without a graph."""
    view = AttackView(
        model,
        precision=config.train.precision,
        fold=config.attack.fold_batchnorm,
        channels_last=config.train.channels_last,
        compile=config.train.compile,
    )
    return torch.no_grad()(view)
