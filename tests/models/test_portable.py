"""Exported weights say what they are the weights of, and are built again from that alone."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from act_engine import evaluate, train
from act_engine.models import build_model, describe_model, load_model
from act_engine.parallel import World
from act_engine.runs.folder import read_config
from act_engine.runs.load import load_models, weights_of
from act_engine.training.checkpoint import export_weights

ARCHITECTURES = [
    {"name": "small_cnn", "num_classes": 3, "image_shape": (1, 8, 8)},
    {
        "name": "cifar_preact_resnet18",
        "num_classes": 10,
        "image_shape": (3, 16, 16),
        "mean": (0.5,) * 3,
        "std": (0.2,) * 3,
    },
    {"name": "robustbench_wrn10_1", "num_classes": 100, "image_shape": (3, 32, 32)},
    {
        "name": "test_vit",
        "num_classes": 4,
        "image_shape": (3, 32, 48),
        "options": {"conv_stem": True},
        "input": "normalized",
    },
    {"name": "test_convnext", "num_classes": 4, "image_shape": (3, 64, 64), "options": {"drop_path_rate": 0.2}},
    {"name": "small_cnn", "num_classes": 3, "image_shape": (1, 8, 8), "input": "byte"},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one["name"])
def test_a_model_is_built_again_from_its_file(architecture, tmp_path):
    torch.manual_seed(1)
    model = build_model(**architecture).eval()
    path = tmp_path / "robust.safetensors"
    export_weights(path, model.state_dict(), describe_model(**architecture))
    again = load_model(path)
    images = torch.rand(2, *architecture["image_shape"])
    assert torch.equal(again(images), model(images))
    assert not again.training


def test_the_header_has_the_documented_keys(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = build_model("robustbench_wrn10_1", num_classes=10, image_shape=(3, 32, 32))
    export_weights(
        path, model.state_dict(), describe_model("robustbench_wrn10_1", num_classes=10, image_shape=(3, 32, 32))
    )
    with safe_open(path, "pt") as file:
        header = {key: json.loads(value) for key, value in file.metadata().items() if key.startswith("model.")}
    assert header == {
        "model.name": "robustbench_wrn10_1",
        "model.options": {},
        "model.num_classes": 10,
        "model.image_shape": [3, 32, 32],
        "model.mean": [0.4914, 0.4822, 0.4465],
        "model.std": [0.2471, 0.2435, 0.2616],
        "model.output": "logits",
        "model.output_field": None,
    }


@pytest.fixture
def users_file(tmp_path, monkeypatch):
    source = (
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, num_classes, width=4):\n"
        "        super().__init__()\n"
        "        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes)]\n"
        "        self.layers = nn.Sequential(*layers)\n"
        "    def forward(self, x):\n"
        "        return {'out': self.layers(x).softmax(1)}\n"
    )
    (tmp_path / "nets.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)


def test_a_run_of_a_users_model_and_what_comes_of_its_file(users_file, capsys):
    """Trained, exported and read back by the command; as a library on the user's word alone."""
    words = ["--recipe", "digits", "--train.max_steps", "1", "--attack.steps", "1", "--evaluate.attack", "none"]
    words += ["--model.name", "nets:Net", "--model.options", "{width: 8}", "--model.output", "probabilities"]
    assert train.main([*words, "--model.output_field", "out", "--output", "run"]) == 0
    path = users_file / "run" / "robust.safetensors"
    with pytest.raises(ValueError, match=r"factory: got None; .* holds a model of 'nets:Net': only your word"):
        load_model(path)
    model = load_model(path, factory="nets:Net")
    from nets import Net

    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_model(path, factory=Net)(images), model(images))
    folder = users_file / "run"
    world = World(0, 1, torch.device("cpu"), 60.0)
    config = read_config(folder)
    assert config.model.options == {"width": 8}
    assert torch.equal(load_models(weights_of(folder), config, (1, 8, 8), world)["robust"](images), model(images))


def test_a_run_starts_from_foreign_weights_and_says_how(tmp_path, capsys):
    torch.manual_seed(3)
    source = build_model("small_cnn", num_classes=1000, image_shape=(1, 8, 8))
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 90}, tmp_path / "imagenet.pt")
    words = ["--recipe", "digits", "--train.max_steps", "1", "--attack.steps", "1", "--evaluate.attack", "none"]
    words += ["--model.weights", str(tmp_path / "imagenet.pt"), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as caught:
        train.main(words)
    assert caught.value.code == 2
    assert "model.head new replaces the classifier" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train.main([*words, "--model.head", "new", "--optim.lr", "1e-9", "--train.ema", "null"]) == 0
    said = capsys.readouterr().out
    assert "robust model: " in said
    assert "left: fc.weight [1000, 64], fc.bias [1000]" in said
    model = load_model(tmp_path / "run" / "robust.safetensors")
    torch.testing.assert_close(model.features[0].weight, source.features[0].weight, rtol=1e-4, atol=1e-6)
    assert model.fc.out_features == 10


def test_a_run_from_timms_weights_is_read_back_without_them(tmp_path, hub, capsys):
    """Normalised as they expect; once it is trained, neither evaluating nor loading it asks for them again."""
    hub.publish("test_resnet", timm.create_model("test_resnet").state_dict())
    draw = np.random.default_rng(0)
    arrays = {f"{split}_images": draw.integers(0, 256, (8, 32, 32, 3), np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": np.arange(8) % 4 for split in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays, **labels)
    words = ["--recipe", "digits", "--data.name", "npz", "--data.path", str(tmp_path / "data.npz")]
    words += ["--train.max_steps", "1", "--data.batch_size", "8", "--attack.steps", "1"]
    words += ["--model.name", "test_resnet", "--model.pretrained", "true", "--evaluate.attack", "none"]
    output = ["--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        train.main([*words, *output])
    assert "model.head new replaces the classifier" in capsys.readouterr().err
    assert train.main([*words, "--model.head", "new", *output]) == 0
    said = capsys.readouterr().out
    assert "robust model: timm's test_resnet: the classifier starts anew; left: 1.fc.weight [1000, " in said
    assert "natural model: timm's test_resnet: " in said
    hub.remove()
    assert evaluate.main([*output[1:], "--attack", "none"]) == 0
    model = load_model(tmp_path / "run" / "robust.safetensors")
    wanted = timm.get_pretrained_cfg("test_resnet")
    assert tuple(model[0].mean.flatten().tolist()) == pytest.approx(wanted.mean)
    assert tuple(model[0].std.flatten().tolist()) == pytest.approx(wanted.std)


def save(path, state, **changes):
    header = describe_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    header |= {f"model.{key}": json.dumps(value) for key, value in changes.items()}
    save_file(state, path, header)
    return path


HOSTILE = {
    "a huge network": ({"name": "cifar_wrn9994_999"}, "claims a larger model"),
    "huge layers": ({"name": "robustbench_ra_wrn70_16", "options": {"widths": [10**5] * 4}}, "claims a larger model"),
    "many classes": ({"num_classes": 2**31 - 1}, "claims a larger model"),
    "a deep timm model": ({"name": "vit_tiny_patch16_224", "options": {"depth": 10**5}}, "claims a larger model"),
    "a number without bounds": ({"name": "test_vit", "options": {"depth": 10**9}}, "model.options: got"),
    "an infinite number": ({"num_classes": 1e400}, "model.num_classes"),
    "negative": ({"num_classes": -3}, "model.num_classes"),
    "no shape": ({"image_shape": [1, 8]}, "model.image_shape"),
    "a command": ({"name": "os:system", "options": {"command": "touch executed"}}, "only your word imports that"),
    "a file": ({"name": "resnet18", "options": {"checkpoint_path": "x.pt"}}, "model.options.checkpoint_path"),
    "another model": ({"name": "cifar_resnet18"}, "claims a larger model"),
    "unknown": ({"name": "small_cnnn"}, "did you mean 'small_cnn'"),
    "mean": ({"mean": ["a"], "std": [1]}, "model.mean"),
    "std": ({"mean": [0.5], "std": [0]}, "model.std"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_headers_claims_are_checked_before_anything_is_built(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, message = HOSTILE[case]
    state = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).state_dict()
    path = save(tmp_path / "weights.safetensors", state, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["weights.safetensors"]


def test_files_without_an_architecture(tmp_path):
    state = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).state_dict()
    save_file(state, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"its header has no model\.name, .*build_model and load_weights read it"):
        load_model(tmp_path / "bare.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    for path in (tmp_path / "weights.pt", tmp_path / "nowhere.safetensors"):
        with pytest.raises(ValueError, match="no safetensors file"):
            load_model(path)
    path = tmp_path / "torn.safetensors"
    save_file(state, path, {f"model.{key}": "{" for key in ("name", "options", "num_classes", "image_shape", "mean")})
    with pytest.raises(ValueError, match=r"its header has no model\.std"):
        load_model(path)
    keys = ("name", "options", "num_classes", "image_shape", "mean", "std", "output", "output_field")
    save_file(state, path, {f"model.{key}": "[" * 100_000 for key in keys})
    with pytest.raises(ValueError, match="a header that is not JSON"):
        load_model(path)
