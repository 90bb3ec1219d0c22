"""PyTorch Lightning: a callback that puts adversarial images in the place of each batch's; the module stays as it is.

python examples/lightning_callback.py
"""

import lightning as L
import torch
import torch.nn.functional as F
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model
from torch.utils.data import DataLoader

from act_engine import AttackView
from act_kernels import PGD


class AdversarialBatches(L.Callback):
    """PGD on `module.model`, in place, before each training step."""

    def __init__(self, fused: bool = True) -> None:
        self.fused, self.attack = fused, PGD(EPS, STEP_SIZE, STEPS, random_start=False)

    def on_train_start(self, trainer, module):
        self.view = AttackView(module.model)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        with torch.enable_grad():
            batch[0].copy_(self.attack(self.view, *batch) if self.fused else plain_pgd(module.model, *batch))


class Classifier(L.LightningModule):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = small_model(dtype=dtype)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The norm of the weights after a short training."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[AdversarialBatches(fused)], **quiet)
    trainer.fit(Classifier(dtype), DataLoader(list(batches(steps, dtype)), batch_size=None))
    return float(sum(p.detach().double().norm() for p in trainer.lightning_module.parameters()))


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"Lightning, {steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
