"""The length of a run, its numbers and its averages."""

from dataclasses import dataclass
from typing import Literal

from act_engine.errors import require


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
    ema_start: float = 0.0
    """With ema: share of all steps, 0 or more and below 1, during which the average is the model itself; then it begins
    as described."""
    ema_buffers: Literal["averaged", "copied"] = "averaged"
    """With ema: average BatchNorm's statistics like the weights, or copy the model's."""
    mixup: float = 0.0
    """Alpha of MixUp, 0 or more, such as 0.8; 0: none. Losses and attack take both classes by their shares."""
    cutmix: float = 0.0
    """Alpha of CutMix, 0 or more, such as 1.0; 0: none."""
    mix_probability: float = 1.0
    """With mixup or cutmix: probability, 0 to 1, that a step mixes its images."""
    cutmix_probability: float = 0.5
    """With mixup and cutmix: probability, 0 to 1, that a step that mixes does so by CutMix."""
    batchnorm_momentum: float | None = None
    """Weight of a batch in BatchNorm's running statistics, above 0 and at most 1; null: as the model has it, mostly
    0.1."""
    batchnorm_first: float | None = None
    """The same in the very first step alone, such as 1.0, with which the statistics begin as that batch's."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl, 1 or more."""
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """Where metrics, settings and final accuracies are shown beside metrics.jsonl: tensorboard (the folder of that
    name), wandb (Weights & Biases; WANDB_MODE=offline sends nothing), mlflow (at MLFLOW_TRACKING_URI, or in the folder
    mlruns), none."""
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
        for name in ("mix_probability", "cutmix_probability"):
            require(0 <= getattr(self, name) <= 1, f"train.{name}", getattr(self, name), "0 to 1")
        for name in ("mixup", "cutmix"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        require(0 <= self.ema_start < 1, "train.ema_start", self.ema_start, "0 or more, below 1")
        for name in ("batchnorm_momentum", "batchnorm_first"):
            value = getattr(self, name)
            require(value is None or 0 < value <= 1, f"train.{name}", value, "above 0, at most 1, or null")
        require(self.log_every >= 1, "train.log_every", self.log_every, "1 or more")
