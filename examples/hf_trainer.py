"""Hugging Face Trainer: compute_loss on adversarial images; the model's output is a dict with logits, as usual there.

python examples/hf_trainer.py
"""

import tempfile

import torch
import torch.nn.functional as F
from rounds import EPS, STEP_SIZE, STEPS, batches, compare, plain_pgd, small_model
from transformers import Trainer, TrainingArguments

from act_engine import AttackView
from act_kernels import PGD


class Classifier(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = small_model(dtype=dtype)

    def forward(self, pixel_values, labels=None):
        return {"logits": self.net(pixel_values)}


class AdversarialTrainer(Trainer):
    fused = True

    def compute_loss(self, model, inputs, return_outputs=False, **others):
        if not hasattr(self, "view"):
            self.view, self.attack = AttackView(model), PGD(EPS, STEP_SIZE, STEPS, random_start=False)
        images, labels = inputs["pixel_values"], inputs["labels"]
        x_adv = self.attack(self.view, images, labels) if self.fused else plain_pgd(self.model.net, images, labels)
        outputs = model(x_adv)
        loss = F.cross_entropy(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss


def train(fused: bool, steps: int, dtype: torch.dtype) -> float:
    """The mean loss of a short training."""
    data = [{"pixel_values": x, "labels": y} for xs, ys in batches(steps, dtype) for x, y in zip(xs, ys, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "report_to": "none"}
        arguments = TrainingArguments(folder, max_steps=steps, per_device_train_batch_size=32, seed=0, **settings)
        trainer = AdversarialTrainer(Classifier(dtype), arguments, train_dataset=data)
        trainer.fused = fused
        return trainer.train().training_loss


def main(rounds: int = 5, steps: int = 10, dtype: torch.dtype = torch.float32) -> dict[str, list[float]]:
    contenders = {"PyTorch": lambda: train(False, steps, dtype), "act_kernels": lambda: train(True, steps, dtype)}
    return compare(f"Trainer, {steps} steps of PGD-{STEPS} training", contenders, rounds)


if __name__ == "__main__":
    main()
