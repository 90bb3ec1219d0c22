"""The architectures and the weights to start from."""

from dataclasses import dataclass, field
from typing import Any, Literal

from act_engine.errors import in_255ths, require


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
