"""The settings of a run: frozen, typed, checked."""

from dataclasses import InitVar, dataclass, field
from typing import Any, Literal

from act_engine.errors import in_255ths, nearest, require, require_pixels


class Numbers(dict[str, float | None]):
    """The numbers of an objective that were given, by name; None is the objective's own value."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training method. Every other name of this group is a number of the objective's own, which its class knows."""

    name: str = "act"
    """Training method: act, natural, madry, trades, mart, lbgat, rslad, or the name of one that an installed package
    adds; each has numbers of its own, listed below."""
    numbers: Numbers = field(default_factory=Numbers, hash=False, metadata={"open": True})
    awp_gamma: float = 0.0
    """Adversarial weight perturbation: how far each layer's weights are moved against the loss, relative to their
    norm, before the gradient is taken there, such as 0.005; 0: not at all. It costs another pass of that model."""
    awp_start_epoch: int = 0
    """With awp_gamma: epochs to train without it first, 0 or more."""

    def __post_init__(self) -> None:
        require(self.awp_gamma >= 0, "objective.awp_gamma", self.awp_gamma, "0 or more, such as 0.005")
        require(self.awp_start_epoch >= 0, "objective.awp_start_epoch", self.awp_start_epoch, "0 or more")

    def method(self) -> dict[str, Any]:
        """The settings of `act_engine.objectives.build_objective`."""
        return {"name": self.name, **self.numbers}


@dataclass(frozen=True)
class AttackConfig:
    """The inner maximisation during training."""

    norm: Literal["linf", "l2"] = "linf"
    """Norm of the perturbation ball."""
    eps: float = 8 / 255
    """Radius of the ball in [0, 1] pixel units (l2: the norm over the whole image)."""
    step_size: float = 2 / 255
    """Length of one step, in the same units as eps."""
    steps: int = 10
    """Attack iterations a training step, 1 or more."""
    start: Literal["auto", "gaussian", "uniform", "none"] = "auto"
    """First iterate: gaussian (x + 0.001 · N(0, 1)), uniform (in the ball), none (x itself), auto (the objective's)."""
    loss: Literal["auto", "kl", "ce", "mixed"] = "auto"
    """What the attack maximises: kl (to the target's output), ce (to the labels), mixed (both, as ACT was released),
    auto (the objective's own)."""
    view: bool = True
    """Attack a frozen, faster copy of the model (as the settings around this one say), not the model itself."""
    fold_batchnorm: bool = True
    """With view: take BatchNorm into the layer before it, as eval mode allows."""
    cuda_graph: bool = True
    """On a GPU, with view: record the attack's loop once as a CUDA graph and replay it."""

    def __post_init__(self) -> None:
        require(self.eps >= 0, "attack.eps", self.eps, "0 or more, in [0, 1] pixel units, such as 8/255")
        require(self.step_size > 0, "attack.step_size", self.step_size, "above 0, in [0, 1] pixel units, such as 2/255")
        require(self.steps >= 1, "attack.steps", self.steps, "1 or more")
        require_pixels("attack.eps", self.eps, self.norm)
        require_pixels("attack.step_size", self.step_size, self.norm)


@dataclass(frozen=True)
class DataConfig:
    name: str = "digits"
    """Data set: digits, textures (both built in), cifar10, cifar100, npz, image_folder, webdataset, or the name of one
    that an installed package adds."""
    path: str | None = None
    """Where the data lies on disk, ~ and $NAME allowed; digits and textures have none."""
    seed: int = 0
    """What textures draws and the choices below follow from it, whatever train.seed is; 0 or more."""
    classes: int | None = None
    """Keep the first so many classes, 2 or more; null: all."""
    train_samples: int | None = None
    """Train on so many images, classes balanced, 1 or more; null: all."""
    validation_samples: int | None = None
    """Hold so many training images back, classes balanced, 1 or more, and measure on them instead of the test images;
    null: none."""
    selection_samples: int | None = None
    """Images that checkpoints are chosen by, classes balanced, 1 or more: of the data's own validation split where it
    has one beside a test split, else training images, which are then not trained on. null: 1,000, or 2 % of a set of
    fewer than 50,000 training images, where a setting needs them (checkpoint.best_every_epochs)."""
    holdout: float | None = None
    """image_folder, webdataset: share of each class's training images, above 0 and below 1, that are tested on, where
    the data has no held-out split; null: it must have one."""
    label_noise: float = 0.0
    """Probability, 0 to 1, that a training label is replaced by a uniformly drawn one."""
    batch_size: int = 128
    """Training images per step and process, 1 or more."""
    workers: int = 2
    """Loader threads per process, 1 or more."""
    augment: str | None = None
    """Training augmentation: crop_flip (cifar10, cifar100, npz), resized_crop_flip or randaugment (image_folder,
    webdataset), none; null: the data set's usual one."""
    image_size: int = 224
    """image_folder, webdataset: side of a picture in pixels."""
    eval_resize: int | None = None
    """image_folder, webdataset: shorter side before the evaluation's centre crop; null: image_size / 0.875."""
    train_sizes: tuple[int, ...] = ()
    """image_folder, webdataset: picture sides in training, one before, between and after the epochs of
    train_size_epochs; empty: image_size throughout."""
    train_size_epochs: tuple[int, ...] = ()
    """The epochs before which the picture side changes, rising."""
    decode: Literal["auto", "cpu"] = "auto"
    """image_folder, webdataset: decode training images on the GPU where there is one (auto), or on the CPU."""
    bad_images: Literal["error", "skip"] = "error"
    """An unusable image file stops the run (error), or is left out and counted (skip); one that turns out so in mid-run
    is then replaced by another, and named."""
    index: str = "auto"
    """image_folder, webdataset: where what was found is kept for the next start: auto (the user's cache folder), a
    folder, renew (auto, but listed anew: for files that were changed where they lie), or off."""
    download: bool = False
    """cifar10, cifar100: fetch the official archive into path if it is not there."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "1 or more")
        require(1 <= self.workers <= 1024, "data.workers", self.workers, "1 to 1024")
        require(0 <= self.seed < 2**31, "data.seed", self.seed, "0 to 2147483647")
        require(0 <= self.label_noise <= 1, "data.label_noise", self.label_noise, "0 to 1")
        if self.holdout is not None:
            require(0 < self.holdout < 1, "data.holdout", self.holdout, "above 0, below 1, or null")
        counts = ("train_samples", "validation_samples", "selection_samples")
        for name, least in (("classes", 2), *((count, 1) for count in counts)):
            value = getattr(self, name)
            require(value is None or value >= least, f"data.{name}", value, f"{least} or more, or null")


@dataclass(frozen=True)
class ModelConfig:
    name: str = "small_cnn"
    """Architecture of the robust model (and of the natural one, unless natural_name says otherwise): one of this
    package's, any of timm's, an installed plugin's (entry point act_engine.models), or package.module:factory."""
    natural_name: str | None = None
    """Architecture of the natural model; null: the same as name."""
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments of the architecture, such as {drop_path_rate: 0.1}; timm's ViTs and ConvNeXts also take
    conv_stem (true: strided 3x3 convolutions instead of one patch convolution)."""
    natural_options: dict[str, Any] | None = field(default=None, hash=False)
    """The same for the natural model; null: as options if it has the same architecture, or else none."""
    num_classes: int | None = None
    """Classes the models tell apart; null: as many as the data has."""
    mean: tuple[float, ...] = ()
    """Mean of each channel, 0 to 1, that the model's first layer subtracts from images in [0, 1]; empty: none, but with
    robustbench_* CIFAR-10's (100 classes: CIFAR-100's), and with input normalized the one of timm's weights."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel, above 0 and at most 1, by which that layer divides; as long as mean."""
    input: Literal["unit", "normalized", "byte"] = "unit"
    """What the architecture takes: unit (images in [0, 1], or what mean and std make of them), normalized (the same;
    without a mean, as timm's weights expect), byte (in [0, 255], without mean and std)."""
    output: Literal["logits", "probabilities", "log_probabilities"] = "logits"
    """What the architecture called name gives; of probabilities the logarithm is taken."""
    output_field: str | None = None
    """Where in a tuple, list, mapping or dataclass that it returns this stands: an index such as 0, a key or an
    attribute; null: it is returned alone."""
    weights: str | None = None
    """File to start the robust model from: safetensors, or a PyTorch file of tensors and plain values; null: a fresh
    initialisation. Wrappers and prefixes around the weights are seen through."""
    weights_entry: str | None = None
    """Which entry of that file, such as ema or nets.robust; null: the one that fits, averaged weights first."""
    natural_weights: str | None = None
    """The same for the natural model."""
    pretrained: bool = False
    """Start every trained model that has no file from timm's published weights; an empty mean is then theirs."""
    head: Literal["keep", "new"] = "keep"
    """The classifier of weights that a trained model starts from: keep it, or leave it out and begin a new one (new),
    as for another number of classes."""
    teacher_name: str | None = None
    """RSLAD: architecture of the frozen robust teacher; null: the same as name."""
    teacher_options: dict[str, Any] | None = field(default=None, hash=False)
    """RSLAD: its keyword arguments; null: as options if it has the same architecture, or else none."""
    teacher_weights: str | None = None
    """RSLAD: file of the teacher's weights, such as another run's robust.safetensors."""

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            require(self.num_classes >= 1, "model.num_classes", self.num_classes, "1 or more, or null")
        for name, least in (("mean", "0"), ("std", "above 0")):
            values = list(getattr(self, name))
            large = in_255ths(*values) if values and max(values) > 1 else ""
            inside = all((value >= 0 if name == "mean" else value > 0) and value <= 1 for value in values)
            require(inside, f"model.{name}", values, f"{least} to 1, one per channel of images in [0, 1]{large}")
        require(len(self.mean) == len(self.std), "model.mean", list(self.mean), "as many values as model.std has")
        require(
            self.input != "byte" or not self.mean,
            "model.input",
            self.input,
            "unit, with mean and std divided by 255",
        )
        files = self.weights or self.natural_weights or self.pretrained
        require(self.head == "keep" or bool(files), "model.head", self.head, "keep, without weights to start from")
        entry = self.weights_entry
        require(entry is None or self.weights is not None, "model.weights_entry", entry, "null without model.weights")

    def architecture(self, learner: str) -> dict[str, Any]:
        """The settings of `act_engine.models.build_model` for the robust, the natural or the teacher model."""
        name, options = {
            "natural": (self.natural_name, self.natural_options),
            "teacher": (self.teacher_name, self.teacher_options),
        }.get(learner, (None, None))
        name = name or self.name
        same = name == self.name
        return {
            "name": name,
            "num_classes": self.num_classes,
            "mean": self.mean or None,
            "std": self.std or None,
            "options": options if options is not None else self.options if same else {},
            "input": "normalized" if self.pretrained and self.input == "unit" else self.input,
            "output": self.output if same else "logits",
            "output_field": self.output_field if same else None,
        }


@dataclass(frozen=True)
class OptimConfig:
    """One optimizer a model, both with these settings."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd: with momentum and L2 weight decay; adamw: decoupled weight decay, betas 0.9 and 0.999."""
    lr: float = 0.1
    """Learning rate at the start, above 0."""
    momentum: float = 0.9
    """sgd: momentum, 0 up to but not including 1."""
    weight_decay: float = 5e-4
    """Weight decay, 0 or more."""
    schedule: Literal["constant", "multistep", "cosine", "onecycle"] = "multistep"
    """multistep: times gamma at each milestone; cosine: to 0; onecycle: up for 30 % of the steps, then down to 0."""
    milestones: tuple[int, ...] = (60, 120, 160)
    """multistep: the epochs before which the rate drops, rising."""
    gamma: float = 0.2
    """multistep: factor at each milestone, above 0 and at most 1."""
    clip_norm: float | None = None
    """Largest norm of each model's whole gradient, above 0; a longer one is scaled down to it. null: no limit."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "above 0")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "0 or more, below 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(m >= 1 for m in self.milestones)
        require(
            rising, "optim.milestones", list(self.milestones), "epochs of 1 or more, rising, such as [60, 120, 160]"
        )
        require(0 < self.gamma <= 1, "optim.gamma", self.gamma, "above 0, at most 1")
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "above 0, or null")


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 200
    """Passes over the training data, 1 or more."""
    max_steps: int | None = None
    """Stop after this many steps even if epochs remain; null: no such limit."""
    seed: int = 0
    """Every random draw of the run follows from it, 0 or more."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the models' passes (autocast below float32); weights, losses and images stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one."""
    channels_last: bool = True
    """Keep images and convolutions in the channels_last layout, which their kernels prefer."""
    compile: bool = False
    """torch.compile the models: costs minutes at the start, saves time and memory in every step."""
    recompute: Literal["none", "natural", "blocks", "model"] = "none"
    """What is computed a second time for the backward passes instead of being kept, which saves memory: natural (the
    natural model, kept neither during the attack nor during the robust model's passes: one forward pass more a step),
    model (the same for every model), blocks (of every model each block by itself, in the attack too: the least memory,
    about a third more arithmetic)."""
    accumulate: int = 1
    """Equal parts in which a process goes through its batch, 1 or more, to save memory: the step is the same, except
    that BatchNorm sees each part by itself."""
    ema: float | None = None
    """Decay per step, such as 0.999, of a moving average of the deployed model's weights and BatchNorm statistics,
    which is then what is exported and evaluated: the robust model's, or with objective natural the natural one's. It
    begins with a decay of 0.1 and rises as (1 + step) / (10 + step); null: no average."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl, 1 or more."""
    progress: Literal["auto", "bar", "lines", "none"] = "auto"
    """How the run shows how far it is: a bar for a terminal, lines for a file, none; auto: a bar where standard error
    is a terminal, and lines elsewhere."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", self.epochs, "1 or more")
        if self.max_steps is not None:
            require(self.max_steps >= 1, "train.max_steps", self.max_steps, "1 or more, or null")
        require(0 <= self.seed < 2**31, "train.seed", self.seed, "0 to 2147483647")
        require(self.accumulate >= 1, "train.accumulate", self.accumulate, "1 or more")
        if self.ema is not None:
            require(0 < self.ema < 1, "train.ema", self.ema, "above 0, below 1, such as 0.999, or null")
        require(self.log_every >= 1, "train.log_every", self.log_every, "1 or more")


@dataclass(frozen=True)
class ParallelConfig:
    """How the processes that torchrun starts share the work."""

    strategy: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    """single: one process; ddp: every process holds both models; deepspeed: ZeRO shards them; auto: single for one
    process, ddp for more."""
    zero_stage: int = 1
    """deepspeed: 0 shards nothing, 1 the optimizers' state, 2 the gradients too, 3 the weights too."""
    offload: Literal["none", "optimizer"] = "none"
    """deepspeed, stages 1 to 3: optimizer keeps its state in the host's memory and steps there."""
    gather_for_attack: bool = True
    """deepspeed, stage 3: gather the robust model once per step for the whole attack; false: layer by layer in every
    pass, where it does not fit."""
    sync_batchnorm: bool = False
    """Let BatchNorm see the batches of all processes as one (GPUs only); false: each its own, and the running
    statistics are averaged after every step."""
    timeout: float = 600.0
    """Seconds that a process waits for another one before it gives the run up."""
    deepspeed_config: str | None = None
    """deepspeed: JSON file of further DeepSpeed settings, put over those that follow from the run's."""

    def __post_init__(self) -> None:
        require(0 <= self.zero_stage <= 3, "parallel.zero_stage", self.zero_stage, "0, 1, 2 or 3")
        if self.offload != "none":
            require(self.zero_stage > 0, "parallel.offload", self.offload, "none at parallel.zero_stage 0")
        require(0 < self.timeout <= 604_800, "parallel.timeout", self.timeout, "above 0 to 604800 (a week), in seconds")


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | None = None
    """Steps between two checkpoints; null: one at the end of every epoch."""
    keep: int = 2
    """Newest checkpoints kept, 1 or more."""
    keep_every_epochs: int | None = None
    """Keep the checkpoint at the end of every so many epochs for good; null: none."""
    best_every_epochs: int | None = None
    """Measure the robust model (its averaged weights, where there are any) by PGD from one start after every so many
    epochs, on data.selection_samples images that are neither trained on nor tested on; the checkpoint with the highest
    robust accuracy is kept and exported. null: never, and the last is exported."""
    best_steps: int = 10
    """With best_every_epochs: iterations of that PGD, 1 or more."""
    best_loss: Literal["ce", "margin", "dlr"] = "ce"
    """With best_every_epochs: its loss, as evaluate.loss."""
    best_patience: int | None = None
    """With best_every_epochs: end the training after so many measurements in a row without a new best, 1 or more;
    null: train all epochs."""
    on_error: Literal["stop", "continue"] = "stop"
    """What a checkpoint that cannot be written (a full disk) does to the run; the older ones stay in either case."""

    def __post_init__(self) -> None:
        if self.every_steps is not None:
            require(self.every_steps >= 1, "checkpoint.every_steps", self.every_steps, "1 or more, or null")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")
        for name in ("keep_every_epochs", "best_every_epochs"):
            epochs = getattr(self, name)
            if epochs is not None:
                require(epochs >= 1, f"checkpoint.{name}", epochs, "1 or more, or null")
        require(self.best_steps >= 1, "checkpoint.best_steps", self.best_steps, "1 or more")
        if self.best_patience is not None:
            require(self.best_patience >= 1, "checkpoint.best_patience", self.best_patience, "1 or more, or null")


@dataclass(frozen=True)
class EvaluateConfig:
    """The attack that measures robust accuracy: PGD from uniform starts, the worst of all restarts, or AutoAttack."""

    attack: Literal["pgd", "autoattack", "apgd-ce", "apgd-t", "fab", "fab-t", "square", "none"] = "pgd"
    """pgd; autoattack, or one of its attacks by name (with PGD beside it, to compare); none: clean accuracy alone."""
    version: Literal["standard", "plus", "rand"] = "standard"
    """autoattack: its version; rand is for models that randomise. Of its attacks by name: whose numbers of steps."""
    loss: Literal["ce", "margin", "dlr"] = "ce"
    """PGD's loss: ce (cross-entropy), margin (Carlini and Wagner's), dlr (difference of logits ratio)."""
    targets: int = 0
    """0: PGD is untargeted; else every restart goes towards each of an image's so many most likely wrong classes."""
    norm: Literal["linf", "l2", "l1"] | None = None
    """Norm of the perturbation ball; null: attack.norm. Another norm than that needs an eps of its own. l1: AutoAttack
    and its attacks alone, without PGD, noise and the look for masking beside them."""
    steps: int = 100
    """Iterations a restart, 1 or more."""
    restarts: int = 5
    """Random starts an image, 1 or more; an image counts as robust only if it withstands every one."""
    eps: float | None = None
    """Radius in [0, 1] pixel units; null: attack.eps."""
    step_size: float | None = None
    """Step in [0, 1] pixel units; null: 2.5 · eps / steps."""
    images: int | None = None
    """Measure on this many images, spread evenly over the test set; null: on all."""
    check_masking: bool = True
    """Look for signs of gradient masking with PGD-20 on 100 images in growing balls."""
    batch_size: int = 500
    """Images attacked at a time, 1 or more."""
    corruptions: tuple[str, ...] = ()
    """Common corruptions of the test images, at each of which accuracy is measured too, in severities 1 to 5: all, or
    gaussian_noise, shot_noise, impulse_noise, speckle_noise, gaussian_blur, defocus_blur, zoom_blur, brightness,
    contrast, saturate, pixelate, jpeg_compression; empty: none."""
    also: tuple[str, ...] = ()
    """Further test sets with classes of the model's, on each of which clean accuracy is measured too: folders of class
    folders, or .npz files; empty: none."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, "evaluate.steps", self.steps, "1 or more")
        require(self.restarts >= 1, "evaluate.restarts", self.restarts, "1 or more")
        require(self.targets >= 0, "evaluate.targets", self.targets, "0 or more")
        if self.images is not None:
            require(self.images >= 1, "evaluate.images", self.images, "1 or more, or null")
        require(self.batch_size >= 1, "evaluate.batch_size", self.batch_size, "1 or more")
        l1 = self.norm == "l1" and self.attack != "none"
        require(not l1 or self.by_library, "evaluate.norm", self.norm, f"linf, l2 with attack {self.attack}")
        if self.eps is not None:
            require(self.eps >= 0, "evaluate.eps", self.eps, "0 or more, or null")
        if self.step_size is not None:
            require(self.step_size > 0, "evaluate.step_size", self.step_size, "above 0, or null")

    @property
    def by_library(self) -> bool:
        """Whether the attack is AutoAttack or one of its attacks, whose result depends on the batches."""
        return self.attack not in ("pgd", "none")

    def ball(self, attack: AttackConfig) -> tuple[float, str]:
        """Radius (in [0, 1] pixel units) and norm that a run is measured with: its own, or else its training's."""
        return attack.eps if self.eps is None else self.eps, self.norm or attack.norm


@dataclass(frozen=True)
class AnalysisConfig:
    """The paper's three analyses, as this package reads them (act_engine/analysis has the protocols)."""

    analyses: tuple[str, ...] = ("complexity", "compression", "flatness")
    """Which: complexity (trains every run anew on partly random labels), compression, flatness."""
    samples: int = 500
    """Test images, evenly spaced, that are measured, 20 or more."""
    noise: tuple[float, ...] = (0.5,)
    """complexity: probabilities, above 0 and below 1, with which a training label is replaced by a random one; none
    leaves those trainings out."""
    classes: int | None = None
    """complexity: train on the first so many classes, 2 or more; null: all."""
    epochs: int | None = None
    """complexity: epochs of that training, 1 or more; null: as many as the run had."""
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """flatness: sizes of the noise on the weights, relative to each tensor's norm, 0 or more, rising."""
    draws: int = 5
    """Random draws that are averaged: of weight noise, and of the probe's labels; 1 or more."""
    seed: int = 0
    """Of those draws, 0 or more."""

    def __post_init__(self) -> None:
        known = ("complexity", "compression", "flatness")
        for name in self.analyses:
            require(name in known, "--analyses", name, ", ".join(known) + nearest(name, known))
        require(bool(self.analyses), "--analyses", "", ", ".join(known))
        require(self.samples >= 20, "--samples", self.samples, "20 or more")
        require(all(0 < p < 1 for p in self.noise), "--noise", list(self.noise), "numbers above 0 and below 1")
        require(self.classes is None or self.classes >= 2, "--classes", self.classes, "2 or more, or null")
        require(self.epochs is None or self.epochs >= 1, "--epochs", self.epochs, "1 or more, or null")
        rising = list(self.sigmas) == sorted({abs(sigma) for sigma in self.sigmas})
        require(rising, "--sigmas", list(self.sigmas), "numbers of 0 or more, rising")
        require(self.draws >= 1, "--draws", self.draws, "1 or more")
        require(0 <= self.seed < 2**31, "--seed", self.seed, "0 to 2147483647")


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    under: InitVar[object] = None  # the Config that this one was put over; no setting, and not compared

    def __post_init__(self, under: object) -> None:
        object.__setattr__(self, "under", under)
        parts, batch = self.train.accumulate, self.data.batch_size
        require(
            batch % parts == 0, "train.accumulate", parts, f"a divisor of data.batch_size, {batch}: the parts are equal"
        )
        own_norm = self.evaluate.norm in (None, self.attack.norm)
        allowed = f"a radius in {self.evaluate.norm}, since attack.eps is one in {self.attack.norm}"
        require(own_norm or self.evaluate.eps is not None, "evaluate.eps", self.evaluate.eps, allowed)
        for name in ("eps", "step_size"):
            value = getattr(self.evaluate, name)
            if value is not None:
                require_pixels(f"evaluate.{name}", value, self.evaluate.norm or self.attack.norm)
