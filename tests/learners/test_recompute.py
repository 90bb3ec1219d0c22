"""A model trained without keeping its activations: the same gradients and statistics, in less memory."""

import copy
import functools

import pytest
import torch
from torch import nn

from act_engine.attack import Attack
from act_engine.config import from_mapping
from act_engine.learners import Learner, check_strategy
from act_engine.models import build_model
from act_engine.models.recompute import repeated_blocks
from act_engine.training.trainer import Trainer

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "drop_path_rate": 0.3}


def vit(**options):
    return build_model("vit_tiny_patch16_224", num_classes=10, image_shape=(3, 16, 16), options={**VIT, **options})


def wide():
    return build_model("cifar_wrn10_1", num_classes=10, image_shape=(3, 16, 16))


def learner(model, **options):
    return Learner(copy.deepcopy(model), lr_at=lambda step: 0.1, **options)


@pytest.mark.parametrize(
    ("name", "count"), [("resnet50", 16), ("convnext_tiny", 18), ("vit_base_patch16_224", 12), ("small_cnn", 0)]
)
def test_the_blocks_of_a_model(name, count):
    with torch.device("meta"):
        model = build_model(name, num_classes=10, image_shape=(3, 224, 224))
    blocks = repeated_blocks(model)
    assert len(blocks) == count
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    assert inside > 0.9 * (sum(p.numel() for p in model.parameters()) - 1e6) or not count


@pytest.mark.parametrize("recompute", ["model", "blocks"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [wide, vit])
def test_steps_are_the_same_to_the_bit_dropout_and_batchnorm_included(make, precision, recompute, seeded):
    model = nn.Sequential(make(), nn.Dropout(0.5))
    plain, recomputed = (learner(model, precision=precision, recompute=r) for r in ("none", recompute))
    for step in range(2):
        images = torch.rand(8, 3, 16, 16)
        for one in (plain, recomputed):
            torch.manual_seed(step)
            one.backward(one(images).logsumexp(1).sum())
            one.step()
    for name, value in plain.module.state_dict().items():
        assert torch.equal(recomputed.module.state_dict()[name], value), name
    assert recomputed.module.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(("recompute", "share"), [("model", 1 / 10), ("blocks", 1 / 4)])
def test_activations_are_not_kept(recompute, share, seeded, allocations):
    model, images = vit(depth=6), torch.rand(64, 3, 16, 16)
    held = {}
    for choice in ("none", recompute):
        one = learner(model, recompute=choice)
        logits, changes = allocations(functools.partial(one, images))
        assert logits.requires_grad
        held[choice] = sum(changes)
    assert held[recompute] < held["none"] * share


@pytest.mark.parametrize("live", [False, True])
def test_an_attack_keeps_the_blocks_inputs_alone_and_finds_the_same_images(live, seeded, allocations):
    model, images = vit(depth=6, drop_path_rate=0.0), torch.rand(64, 3, 16, 16)
    labels, held, found = torch.zeros(64, dtype=torch.int64), {}, {}
    for choice in ("none", "blocks"):
        one = learner(model, recompute=choice)
        view = one.live_view() if live else one.attack_view()
        with view.ready():
            view(images)  # compares the copy with the model
            logits, changes = allocations(functools.partial(view, images.clone().requires_grad_()))
        assert logits.requires_grad
        held[choice] = sum(changes)
        attack = Attack(
            view, kl_weight=0, ce_weight=1, start="none", steps=2, step_size=0.01, eps=0.03, generator=torch.Generator()
        )
        found[choice] = attack(images, labels)
    assert held["blocks"] < held["none"] / 4
    assert torch.equal(found["blocks"], found["none"])
    assert not torch.equal(found["none"], images)


def test_what_it_does_not_go_with_is_refused():
    with pytest.raises(ValueError, match=r"train\.recompute: got 'model' with parallel\.sync_batchnorm true; allowed"):
        check_strategy(
            "ddp",
            device_type="cuda",
            world_size=2,
            precision="float32",
            sync_batchnorm=True,
            deepspeed_config=None,
            recompute="model",
        )


def test_a_model_without_blocks_is_refused(tiny_config, tmp_path):
    tiny_config["train"]["recompute"] = "blocks"
    with pytest.raises(
        ValueError, match=r"train\.recompute: got 'blocks'; allowed: none, natural, model for small_cnn"
    ):
        Trainer(from_mapping(tiny_config), tmp_path / "run")
