"""What every contender is given: one model, one batch, one set of numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from act_engine.models import build_model


@dataclass
class Setting:
    """The task of a request, in memory. Numbers are in `task`, by the names of `test_peers.py`."""

    model: nn.Module
    images: Tensor
    """[B, C, H, W], float32 in [0, 1]."""
    labels: Tensor
    task: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["task"][name]

    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of every contender."""
        return torch.optim.SGD(
            self.model.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def loader(self) -> list[tuple[Tensor, Tensor]]:
        """An epoch of one batch, for libraries that want a loader."""
        return [(self.images, self.labels)]

    @torch.no_grad()
    def right(self, images: Tensor) -> Tensor:
        """Which of these images [B] the model, in eval mode, gives their labels."""
        return self.model.eval()(images).argmax(1) == self.labels


def read_setting(task: dict[str, Any]) -> Setting:
    """The setting of a task, with the weights and the batch from the file that it names."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content = torch.load(task["file"], weights_only=True)
    images = content["images"].to(device)
    model = build_model(task["model"], num_classes=task["classes"], image_shape=tuple(images.shape[1:]))
    model.load_state_dict(content["weights"])
    return Setting(model.to(device), images, content["labels"].to(device), task)
