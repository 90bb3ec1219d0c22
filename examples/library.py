"""Your own model and batches: trained with ACT and with TRADES, measured, saved and loaded again."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import act_engine


def net() -> nn.Module:
    """Any module from images in [0, 1] to logits will do."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(576, 10),
    )  # fmt: skip


def digits() -> tuple[DataLoader, DataLoader]:
    """scikit-learn's handwritten digits, 8 × 8, as loaders for training and for the test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    train, test = TensorDataset(images[500:], labels[500:]), TensorDataset(images[:500], labels[:500])
    return DataLoader(train, 128, shuffle=True, drop_last=True), DataLoader(test, 250)


def main(epochs: int = 15, images: int | None = None) -> dict[str, float]:
    """Train, measure, save and load; returns the robust accuracies by method."""
    train, test = digits()
    robust = {}
    for objective, models in (("act", {"robust": net(), "natural": net()}), ("trades", {"robust": net()})):
        result = act_engine.fit(models, train, objective=objective, eps=0.15, steps=10, epochs=epochs, lr=0.05)
        act_engine.save_model(result.models["robust"], f"{objective}.safetensors")
        model = net()
        act_engine.load_weights(model, f"{objective}.safetensors")
        report = act_engine.robustness(model, test, eps=0.15, attack="pgd", steps=100, restarts=5, images=images)
        print(objective, report, sep="\n")
        robust[objective] = report.robust_accuracy
    print(act_engine.robustness(model, test, eps=0.15, attack="autoattack", images=images or 50))
    return robust


if __name__ == "__main__":
    main()
