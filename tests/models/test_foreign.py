"""Models of others: a user's file, installed plugins, what they take and what they return."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.attack import AttackView
from act_engine.models import build_model

SHAPE = (3, 8, 8)

USERS = '''
import dataclasses
import torch
from torch import nn

class Net(nn.Module):
    """Flattened images through one layer, with BatchNorm to have a state."""

    def __init__(self, num_classes, image_shape, width=8, **unused):
        super().__init__()
        channels, height, side = image_shape
        self.features = nn.Sequential(nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(width * (height - 2) * (side - 2), num_classes)

    def forward(self, x):
        return self.head(self.features(x))

class Strict(Net):
    def __init__(self, num_classes, image_shape, *, width=8):
        super().__init__(num_classes, image_shape, width)

@dataclasses.dataclass
class Result:
    features: torch.Tensor
    logits: torch.Tensor

class Wordy(Strict):
    how = "tuple"
    def forward(self, x):
        features = self.features(x)
        logits = self.head(features)
        return {"tuple": (features, logits), "dict": {"features": features, "logits": logits},
                "dataclass": Result(features, logits), "softmax": logits.softmax(1),
                "log_softmax": logits.log_softmax(1), "wrong": logits[:, :-1], "integers": logits.argmax(1)}[self.how]

def wordy(how, num_classes, image_shape):
    model = Wordy(num_classes, image_shape)
    model.how = how
    return model

def from_bytes(image_shape):
    """Only its two classes, and images in [0, 255]."""
    model = Strict(2, image_shape)
    model.register_forward_pre_hook(lambda module, args: (args[0] / 255,))
    return model

def not_a_module(num_classes):
    return 3

def broken(num_classes):
    raise KeyError("weights")

def untyped():
    return nn.Linear(2, 2)

SOME = 3
'''


@pytest.fixture
def users_file(tmp_path, monkeypatch) -> Path:
    """The working directory, with a file of models; `python -m` does not have it on its path here."""
    (tmp_path / "their_models.py").write_text(USERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("their_models", None)


def users(name: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    settings = {"num_classes": 5, "image_shape": SHAPE, **settings}
    return build_model(name if ":" in name else f"their_models:{name}", **settings).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_a_model_of_a_users_file(users_file, images):
    model = users("Net", options={"width": 4, "anything": 1})
    assert type(model).__name__ == "Net"
    assert model(images).shape == (3, 5)
    assert model.features[0].out_channels == 4
    assert users("Net").training is False


def test_building_one_leaves_its_statistics_mode_and_the_generator_alone(users_file):
    torch.manual_seed(0)
    model = build_model("their_models:Net", num_classes=5, image_shape=SHAPE)
    drawn = torch.rand(1)
    assert all(module.training for module in model.modules())
    assert int(model.features[1].num_batches_tracked) == 0
    torch.manual_seed(0)
    sys.modules["their_models"].Net(5, SHAPE)
    assert torch.equal(torch.rand(1), drawn)


def test_a_factory_itself_and_a_libraries_own(images):
    class Mine(nn.Module):
        def __init__(self, classes: int = 5) -> None:
            super().__init__()
            self.layer = nn.Linear(192, classes)

        def forward(self, x):
            return self.layer(x.flatten(1))

    assert build_model(Mine, num_classes=5, image_shape=SHAPE)(images).shape == (3, 5)
    with pytest.raises(ValueError, match=r"gives torch\.float32 \[2, 5\] for two images; allowed: logits \[2, 7\]"):
        build_model(Mine, num_classes=7, image_shape=SHAPE)
    torchvisions = users("torchvision.models:resnet18", image_shape=(3, 32, 32))
    assert torchvisions.fc.out_features == 5


@pytest.mark.parametrize("how", ["tuple", "dict", "dataclass", "softmax", "log_softmax"])
def test_what_a_model_returns_is_turned_into_logits(how, users_file, images):
    plain = users("Strict")
    field = {"tuple": "1", "dict": "logits", "dataclass": "logits"}.get(how)
    output = {"softmax": "probabilities", "log_softmax": "log_probabilities"}.get(how, "logits")
    model = users("wordy", options={"how": how}, output_field=field, output=output)
    logits = model(images)
    # log-probabilities are logits less one number an image: the same classes, losses and gradients.
    wanted = plain(images).log_softmax(1) if "softmax" in how else plain(images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-6)  # a float32 logarithm of a rounded number in (0, 1)
    labels = torch.tensor([0, 1, 2])
    torch.testing.assert_close(F.cross_entropy(logits, labels), F.cross_entropy(plain(images), labels))
    view = AttackView(model)
    torch.testing.assert_close(view(images), logits, rtol=1e-5, atol=1e-5)


def test_a_probability_of_zero_is_a_finite_logit(images):
    from act_engine.models.layers import Logits

    for dtype in (torch.float32, torch.float64, torch.float16):
        logits = Logits(kind="probabilities")(torch.tensor([[0.0, 1.0]], dtype=dtype))
        assert logits.isfinite().all()
        assert logits.softmax(1).tolist() == [[pytest.approx(0, abs=1e-30), 1.0]]


def test_images_in_bytes_and_normalised_ones(users_file, images):
    model = users("from_bytes", num_classes=2, input="byte")
    torch.manual_seed(0)
    plain = users("Strict", num_classes=2)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-6)  # x / (1/255) / 255: three roundings
    with pytest.raises(ValueError, match=r"model\.input: got 'byte'; allowed: unit, with model\.mean"):
        users("Strict", input="byte", mean=(0.5,) * 3, std=(0.5,) * 3)
    timms = build_model("test_vit", num_classes=5, image_shape=(3, 160, 160), input="normalized")
    assert (timms[0].mean.flatten().tolist(), timms[0].std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)
    with pytest.raises(ValueError, match=r"timm's weights of test_vit expect 3 channels, the images have 1"):
        build_model("test_vit", num_classes=5, image_shape=(1, 160, 160), input="normalized")
    with pytest.raises(ValueError, match=r"model\.input: got 'normalized', .* and not with their_models:Strict"):
        users("Strict", input="normalized")


MISTAKES = {
    "module": ("ther_models:Net", {}, r"no module 'ther_models' .*; did you mean 'their_models'"),
    "class": ("their_models:Nett", {}, r"their_models has no 'Nett'; did you mean 'Net'"),
    "number": (
        "their_models:SOME",
        {},
        r"allowed: a class derived from nn\.Module, a function of a file in the working",
    ),
    "no module made": ("their_models:not_a_module", {}, r"which returns a int; allowed: an nn\.Module"),
    "raises": ("their_models:broken", {}, r"model\.name: got 'their_models:broken': KeyError: 'weights'"),
    "option": ("their_models:Strict", {"options": {"widht": 3}}, r"model\.options\.widht: got 3; .* 'width'"),
    "option given": ("their_models:Strict", {"options": {"num_classes": 3}}, r"it comes from model\.num_classes"),
    "value": ("their_models:Strict", {"options": {"width": "wide"}}, r"their_models:Strict refuses them: "),
    "tuple": (
        "their_models:wordy",
        {"options": {"how": "tuple"}},
        r"model\.output_field: got None; .* a tuple of 0 \[2, 288\], 1 \[2, 5\]",
    ),
    "dataclass": (
        "their_models:wordy",
        {"options": {"how": "dataclass"}},
        r"a Result of features \[2, 288\], logits \[2, 5\]",
    ),
    "field": (
        "their_models:wordy",
        {"options": {"how": "dict"}, "output_field": "logit"},
        r"model\.output_field: got 'logit'; .*features \[2, 288\], logits \[2, 5\]",
    ),
    "no field": ("their_models:Net", {"output_field": "0"}, r"model\.output_field: got '0'; allowed: null"),
    "classes": ("their_models:wordy", {"options": {"how": "wrong"}}, r"gives torch\.float32 \[2, 4\] .*\[2, 5\]"),
    "kind": ("their_models:wordy", {"options": {"how": "integers"}}, r"gives torch\.int64 \[2\] for two images"),
    "output": ("their_models:Net", {"output": "softmax"}, r"model\.output: got 'softmax'; allowed: logits, prob"),
    "input": ("their_models:Net", {"input": "bytes"}, r"model\.input: got 'bytes'; allowed: unit, normalized, byte"),
    "system": ("os:system", {"options": {"command": "touch executed"}}, r"allowed: a class derived from nn\.Module"),
    "library": ("subprocess:run", {"options": {"args": ["touch", "executed"]}}, r"allowed: a class derived from nn\.M"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(case, users_file):
    name, settings, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as caught:
        users(name, **settings)
    assert "\n" not in str(caught.value)
    assert not (users_file / "executed").exists()


def test_functions_of_the_standard_library_stay_refused_above_it(users_file, monkeypatch):
    monkeypatch.chdir("/")
    for name, options in (
        ("subprocess:run", {"args": ["touch", "/executed"]}),
        ("torch.hub:load", {"repo_or_dir": "a"}),
    ):
        with pytest.raises(ValueError, match=r"allowed: a class derived from nn\.Module"):
            users(name, options=options)


def test_a_file_that_cannot_be_imported(users_file):
    (users_file / "torn.py").write_text("import torch\nraise RuntimeError('no GPU')\n")
    with pytest.raises(ValueError, match=r"importing torn raises RuntimeError: no GPU"):
        users("torn:Net")


def test_an_installed_packages_entry_point(users_file, monkeypatch):
    """As pip leaves it: a folder of metadata beside the modules."""
    folder = users_file / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[act_engine.models]\ntheir_net = their_models:Strict\n")
    monkeypatch.syspath_prepend(str(users_file))
    model = build_model("their_net", num_classes=5, image_shape=SHAPE, options={"width": 2})
    assert model.features[0].out_channels == 2
    with pytest.raises(ValueError, match=r"model\.name: unknown model 'their_nett'; did you mean 'their_net'"):
        build_model("their_nett", num_classes=5)
