"""Every recipe: loaded, validated, its models built at full size without memory, and stepped once at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from act_engine.config import from_mapping, read_recipe, recipe_names
from act_engine.data import sources
from act_engine.data.sample_tree import write_tree
from act_engine.models import build_model
from act_engine.training.trainer import Trainer

RECIPES = (
    "cifar10_resnet18",
    "cifar10_wrn28_10",
    "cifar100_resnet18",
    "cifar100_wrn28_10",
    "imagenet_resnet50",
    "imagenet_resnet50_fast",
    "imagenet_vit_b",
    "imagenet_convnext_t",
    "act_cifar10_wrn28_10_extra",
    "act_imagenet_convnext_t",
    "cifar100_wrn28_10_wang2023",
    "cifar10_resnet18_awp",
    "cifar10_resnet18_nfgsm",
    "cifar10_wrn28_10_wang2023",
    "cifar10_wrn70_16_wang2023",
    "cifar10_wrn94_16_bartoldson2024",
    "imagenet_convnext_b_ares",
    "imagenet_resnet50_finetune",
)
MILLIONS_OF_PARAMETERS = {
    "cifar10_resnet18": 11.2,
    "cifar10_wrn28_10": 36.5,
    "cifar100_resnet18": 11.2,
    "cifar100_wrn28_10": 36.5,
    "imagenet_resnet50": 25.6,
    "imagenet_resnet50_fast": 25.6,
    "imagenet_vit_b": 86.6,
    "imagenet_convnext_t": 28.6,
    "act_cifar10_wrn28_10_extra": 36.5,
    "act_imagenet_convnext_t": 28.6,
    "cifar100_wrn28_10_wang2023": 36.5,
    "cifar10_resnet18_awp": 12.5,
    "cifar10_resnet18_nfgsm": 12.5,
    "cifar10_wrn28_10_wang2023": 36.5,
    "cifar10_wrn70_16_wang2023": 266.8,
    "cifar10_wrn94_16_bartoldson2024": 365.9,
    "imagenet_convnext_b_ares": 88.6,
    "imagenet_resnet50_finetune": 25.6,
}
SMALL_SIBLINGS = {
    "cifar_wrn28_10": "cifar_wrn10_1",
    "robustbench_wrn28_10": "robustbench_wrn10_1",
    "robustbench_wrn70_16": "robustbench_wrn10_1",
    "robustbench_wrn94_16": "robustbench_wrn10_1",
    "vit_base_patch16_224": "vit_tiny_patch16_224",
    "convnext_base": "convnext_atto",
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One picture a class and split: 10, 100 and 4 classes."""
    folder = tmp_path_factory.mktemp("trees")
    counts = {"cifar10": 10, "cifar100": 100, "image_folder": 4}
    return {name: write_tree(folder / name, classes=n, train=1, test=1, size=40) for name, n in counts.items()}


def test_the_recipes_are_all_there():
    assert set(RECIPES) <= set(recipe_names())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_the_published_model(name: str):
    config = from_mapping(read_recipe(name))
    shape = (3, 32, 32) if config.data.name.startswith("cifar") else (3, 224, 224)
    assert config.model.num_classes is None  # the data's
    classes = sources()[config.data.name].usual.num_classes
    with torch.device("meta"):
        model = build_model(**{**config.model.architecture("robust"), "num_classes": classes}, image_shape=shape)
        assert model(torch.empty(2, *shape)).shape == (2, classes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters / 1e6 == pytest.approx(MILLIONS_OF_PARAMETERS[name], abs=0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_steps_at_a_tiny_size(name: str, trees: dict[str, Path], tmp_path: Path):
    """The recipe's own objective, attack, optimizer and data source; 2 pictures of 32 pixels, a small sibling model."""
    config = from_mapping(read_recipe(name))
    tiny = {
        "data": {"path": str(trees[config.data.name]), "batch_size": 2, "workers": 1},
        "model": {"name": SMALL_SIBLINGS.get(config.model.name, config.model.name)},
        "attack": {"steps": 1},
        "train": {"device": "cpu"},
    }
    if config.model.pretrained:
        tiny["model"]["pretrained"] = False  # which would have to be fetched
    if config.data.extra:
        extra = {"image": np.zeros((4, 32, 32, 3), np.uint8), "label": np.arange(4)}
        np.savez(tmp_path / "extra.npz", **extra)
        tiny["data"] |= {"extra": [str(tmp_path / "extra.npz")], "epoch_images": 4}
    if config.data.selection_samples:
        tiny["data"]["selection_samples"] = 2
    if sources()[config.data.name].streamed:
        tiny["data"]["image_size"] = 32
    if config.data.train_sizes:
        tiny["data"]["train_sizes"] = [size // 7 * 2 for size in config.data.train_sizes]
    config = from_mapping(tiny, config)
    trainer = Trainer(config, tmp_path / "run")
    before = {key: [p.detach().clone() for p in it.module.parameters()] for key, it in trainer.learners.items()}
    batch = next(trainer.data.train.epoch(0))
    assert batch.images.shape[-1] == (config.data.train_sizes[0] if config.data.train_sizes else 32)
    losses = trainer.train_step(*batch)
    assert set(losses) == set(trainer.objective.trains)
    for key, learner in trainer.learners.items():
        assert torch.isfinite(losses[key])
        moved = [not torch.equal(p, q) for p, q in zip(learner.module.parameters(), before[key], strict=True)]
        assert sum(moved) > len(moved) / 2  # a block that starts as the identity has weights that do not move yet


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_where_it_comes_from_and_what_it_costs(name: str):
    import act_engine

    text = Path(act_engine.__file__).with_name("recipes").joinpath(f"{name}.yaml").read_text("utf-8")
    head = text[: text.index("objective:")]
    assert "arXiv" in head
    assert "Expected cost" in head
    assert dataclasses.asdict(from_mapping(read_recipe(name)))
    docs = Path(__file__).parents[2] / "docs" / "recipes.md"
    assert f"| `{name}` |" in docs.read_text("utf-8")
