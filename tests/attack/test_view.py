"""The attack view is the model's eval-mode function, whatever the model looks like, and follows its weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.attack import AttackView, input_gradient
from act_engine.models import build_model

# model: image shape, BatchNorms in all, BatchNorms that can be folded
MODELS = {
    "small_cnn": ((1, 8, 8), 3, 3),
    "cifar_resnet18": ((3, 32, 32), 20, 20),
    "cifar_preact_resnet18": ((3, 32, 32), 17, 8),  # those before a convolution stay
    "cifar_wrn10_2": ((3, 32, 32), 7, 3),
    "cifar_wrn28_10": ((3, 32, 32), 25, 12),
    "resnet50": ((3, 64, 64), 53, 53),
    "convnext_tiny": ((3, 32, 32), 0, 0),
    "vit_small_patch16_224": ((3, 224, 224), 0, 0),
}


def randomise_statistics(model):
    """BatchNorm layers of an untrained model are the identity: give them something to fold."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)


def gradients(view, model, images):
    """Logits and input gradients of the cross-entropy, through the view and through the model in eval mode."""
    labels = torch.zeros(len(images), dtype=torch.int64)

    def ce_grad(logits):
        return logits.softmax(1) - F.one_hot(labels, logits.shape[1])

    model = copy.deepcopy(model).eval()
    with view.ready():
        return *input_gradient(view, images, ce_grad), *input_gradient(model, images, ce_grad)


def assert_same_function(view, model, images, tolerance=1e-10):
    logits, gradient, expected_logits, expected_gradient = gradients(view, model, images)
    scale = expected_gradient.abs().max()
    assert scale > 0
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=tolerance * expected_logits.abs().max().item())
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=tolerance * scale.item())


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_model_and_follows_an_optimizer_step(name, seeded):
    shape, norms, foldable = MODELS[name]
    if name not in ("small_cnn",) and not name.startswith("cifar"):
        pytest.importorskip("timm", reason="timm's models need the extra act-engine[imagenet]")
    model = build_model(name, num_classes=10, image_shape=shape).double()
    randomise_statistics(model)
    view = AttackView(model)
    assert view.why_not_folded is None
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) == norms
    assert len(view.folded) == foldable
    images = torch.rand(2, *shape, dtype=torch.float64)
    assert_same_function(view, model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    F.cross_entropy(model.train()(images), torch.tensor([1, 2])).backward()
    before = view.module.state_dict(keep_vars=True)
    addresses = {key: value.data_ptr() for key, value in before.items()}
    optimizer.step()
    assert_same_function(view, model, images)
    assert {key: value.data_ptr() for key, value in view.module.state_dict(keep_vars=True).items()} == addresses
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


class BatchNormFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.conv, self.fc = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(self.bn(x)).mean((2, 3)))


class SharedConvolution(nn.Module):
    """One convolution with two BatchNorms after it, at two places."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn1, self.bn2, self.fc = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.bn2(self.conv(self.bn1(self.conv(x)))).mean((2, 3)))


class TiedWeights(nn.Module):
    """Two convolutions with one weight tensor; only the first has a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.conv2.weight = self.conv1.weight
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.conv2(self.bn(self.conv1(x))).mean((2, 3)))


class SharedBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv2(self.bn(self.conv1(x)))).mean((2, 3)))


class TwoReaders(nn.Module):
    """The convolution's output is read by the BatchNorm and by a shortcut around it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        out = self.conv(x)
        return self.fc((out + self.bn(out)).mean((2, 3)))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.conv.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class NoStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class DependsOnValues(nn.Module):
    """A forward that no symbolic trace can follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x):
        out = self.bn(self.conv(x))
        if out.sum() > 1e9:
            out = -out
        return self.fc(out.mean((2, 3)))


class LinearAndNoAffine(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn1 = nn.Conv2d(3, 4, 3, bias=True, groups=1), nn.BatchNorm2d(4, affine=False)
        self.fc1, self.bn2, self.fc2 = nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc2(self.bn2(self.fc1(self.bn1(self.conv(x)).mean((2, 3)))).relu())


ODD = {
    BatchNormFirst: 0,
    SharedConvolution: 0,
    TiedWeights: 0,
    SharedBatchNorm: 0,
    TwoReaders: 0,
    Hooked: 0,
    NoStatistics: 0,
    DependsOnValues: 0,
    LinearAndNoAffine: 2,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_cannot_be_folded_is_left_and_right(kind, seeded):
    model = kind().double()
    randomise_statistics(model)
    view = AttackView(model)
    assert len(view.folded) == ODD[kind]
    assert (view.why_not_folded is not None) == (kind is DependsOnValues)
    images = torch.rand(3, 3, 6, 6, dtype=torch.float64)
    assert_same_function(view, model, images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    randomise_statistics(model)
    assert_same_function(view, model, images)


@pytest.mark.parametrize("switch", ["fold", "channels_last"])
def test_each_exact_speed_up_can_be_switched_off(switch, seeded):
    model = build_model("cifar_resnet18", num_classes=10, image_shape=(3, 32, 32)).double()
    randomise_statistics(model)
    view = AttackView(model, **{switch: False})
    assert bool(view.folded) == (switch != "fold")
    assert view.module.conv1.weight.is_contiguous() == (switch == "channels_last")
    assert_same_function(view, model, torch.rand(2, 3, 32, 32, dtype=torch.float64))


def test_the_first_convolution_of_grey_images_is_channels_last_too():
    """Its weights are contiguous in both layouts; their strides say which one the convolution takes."""
    view = AttackView(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)))
    assert [layer.weight.stride() for layer in view.module] == [(9, 1, 3, 1), (36, 1, 12, 4)]
    hidden = view.module[0](torch.rand(2, 1, 8, 8))
    assert hidden.is_contiguous(memory_format=torch.channels_last)


def test_compiled_view_equals_the_model(seeded):
    """float32, and the compiler may reorder sums of up to 27 products: 1e-5 of the largest entry."""
    model = LinearAndNoAffine()
    randomise_statistics(model)
    assert_same_function(AttackView(model, compile=True), model, torch.rand(4, 3, 6, 6), tolerance=1e-5)


@pytest.mark.parametrize(("precision", "unit"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_reduced_precision_stays_within_its_rounding(precision, unit, seeded):
    """A rounding is off by at most half a unit (8 bits of precision: 2^-8, 11 bits: 2^-11) of a value.

    Logits: images, four layers' weights and their outputs are rounded one after another, nine times, so ten half-units
    of the largest entry bound them. Gradients: a ReLU whose input is rounded across 0 passes or stops a gradient as a
    whole; about one unit in each of three layers does, which changes the gradient's square by three units. In float16
    each image's gradient has a positive factor of its own, so images' gradients are compared at one length.
    """
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    randomise_statistics(model)
    view = AttackView(model, precision=precision)
    assert view.module.features[0].weight.dtype == view.dtype
    logits, gradient, expected_logits, expected_gradient = gradients(view, model, torch.rand(64, 1, 8, 8))
    gradient, expected_gradient = (F.normalize(one.flatten(1)) for one in (gradient, expected_gradient))
    assert (logits - expected_logits).abs().max() <= 5 * unit * expected_logits.abs().max()
    assert (gradient - expected_gradient).norm() <= (3 * unit) ** 0.5 * expected_gradient.norm()
    assert (gradient - expected_gradient).norm() > 0


def test_uint8_images_are_divided_by_255(seeded):
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).eval()
    images = torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(AttackView(model)(images), model(images / 255), rtol=1e-5, atol=1e-5)
