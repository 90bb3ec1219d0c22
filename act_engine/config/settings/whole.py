"""All the settings of a run."""

from dataclasses import InitVar, dataclass, field

from act_engine.config.settings.attack import AttackConfig
from act_engine.config.settings.checkpoint import CheckpointConfig
from act_engine.config.settings.data import DataConfig
from act_engine.config.settings.evaluate import EvaluateConfig
from act_engine.config.settings.model import ModelConfig
from act_engine.config.settings.objective import ObjectiveConfig
from act_engine.config.settings.optim import OptimConfig
from act_engine.config.settings.parallel import ParallelConfig
from act_engine.config.settings.train import TrainConfig
from act_engine.errors import require, require_pixels


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
