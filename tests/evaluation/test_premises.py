"""What a measurement takes for granted is looked at: each breach is an error or a warning that names it."""

import dataclasses
import shutil
import warnings

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from act_engine import evaluate as door
from act_engine.config import AttackConfig, EvaluateConfig
from act_engine.data.arrays import ArrayLoader
from act_engine.evaluation import (
    PGDAttack,
    PremiseError,
    PremiseWarning,
    RandomNoise,
    adversarial_images,
    evaluate,
    evaluate_models,
    format_table,
)
from act_engine.evaluation.losses import logit_gradient
from act_engine.evaluation.masking import RadiiProbe
from act_engine.evaluation.premises import once_each
from act_engine.parallel import World

CLASSES = 4
PGD = PGDAttack(0.03, 0.01, 2, 1)


class Net(nn.Module):
    """A linear model of 4×4 images, whose output goes through `after`, and whose images through `before`."""

    def __init__(self, after=lambda z: z, before=lambda x: x, classes=CLASSES):
        super().__init__()
        self.linear = nn.Linear(16, classes)
        self.after, self.before = after, before

    def forward(self, images):
        return self.after(self.linear(self.before(images).flatten(1)))


@pytest.fixture
def x(seeded):
    return torch.rand(12, 1, 4, 4)


@pytest.fixture
def y():
    return torch.arange(12) % CLASSES


def measure(model, images, labels, attack=PGD, batch_size=None, **settings):
    """The result, and what it warned of; each warning is one of Python's too."""
    size = batch_size or len(images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PremiseWarning)
        batches = zip(images.split(size), labels.split(size), strict=True)
        result = evaluate(model, batches, attack=attack, **settings)
    assert [str(w.message) for w in caught if w.category is PremiseWarning] == list(result.warnings)
    return result, {text.split(":")[0] for text in result.warnings}


def test_a_sound_measurement_has_no_warning(x, y):
    for images in (x, x.double() * 0.5 + 0.5, (x * 255).to(torch.uint8), x.half().float()):
        model = Net().double() if images.dtype == torch.float64 else Net()
        assert measure(model, images, y)[1] == set()
    assert measure(nn.Sequential(Net(), nn.LogSoftmax(1)), x, y)[1] == set(), "log-probabilities are logits"
    masked = Net(lambda z: z.masked_fill(torch.arange(CLASSES) == 3, -torch.inf))
    assert measure(masked, x, y % 3)[1] == set(), "a masked class is no fault"


@pytest.mark.parametrize("attack", [None, PGD])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (x - 0.3) / 0.4, "values from -0.7"),
        (lambda x: x * 255, "divide by 255"),
        (lambda x: x * 1.1 - 0.05, "values from -0.0"),  # as a resize that overshoots makes them
        (lambda x: torch.where(x > 0.9, torch.nan, x), "got NaN"),
        (lambda x: (x * 255).long(), "tensor of int64"),
        (lambda x: x.numpy(), "got a ndarray"),
    ],
)
def test_images_outside_the_unit_range(x, y, attack, change, words):
    with pytest.raises(PremiseError, match=r"images: got .*; allowed: ") as error:
        evaluate(Net(), [(x, y), (change(x), y)], attack=attack)
    assert words in str(error.value)
    if not words.endswith("ndarray"):
        assert "\n" not in str(error.value)
    with pytest.raises(PremiseError, match="images: got"):
        adversarial_images(Net(), change(x), y, PGD)


def test_images_of_hardly_any_light(x, y):
    assert measure(Net(), x / 255, y)[1] == {"images"}
    assert measure(Net(), (x > 0.5).to(torch.uint8), y)[1] == {"images"}
    assert measure(Net(), torch.cat([x / 255, x]), torch.cat([y, y]), batch_size=12)[1] == set(), (
        "one batch may be dark"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: F.one_hot(y), "argmax"),
        (lambda y: y[:, None], "squeeze"),
        (lambda y: y - 1, "got -1"),
        (lambda y: y + 1, "got 4"),  # classes from 1
        (lambda y: y.float(), "float32"),
        (lambda y: y > 1, "bool"),
        (lambda y: y[:-1], "[11]"),
        (lambda y: y.tolist(), "got a list"),
    ],
)
def test_labels_that_are_no_class_numbers(x, y, change, words):
    with pytest.raises(PremiseError, match=r"labels: got .*; allowed: ") as error:
        evaluate(Net(), [(x, y), (x, change(y))], attack=PGD)
    assert words in str(error.value)


def test_labels_of_any_integers(x, y):
    model = Net()
    expected = measure(model, x, y)
    assert measure(model, x, y.to(torch.int32)) == measure(model, x, y.to(torch.uint8)) == expected


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (lambda z: (z, z), "tuple of 2"),
        (lambda z: [z], "list of 1"),
        (lambda z: {"output": z}, "dict of 'output'"),
        (lambda z: {"logits": [z]}, "dict of 'logits'"),
        (lambda z: Output(z.tolist()), "of class Output"),
        (lambda z: z[:, :1], "one number an image"),
        (lambda z: Output(z[:, :1]), "one number an image"),
        (lambda z: z[:, 0], "shape [2] for 2 images"),
        (lambda z: z[:, :, None, None], "[2, 4, 1, 1]"),
        (lambda z: z.repeat(2, 1), "[4, 4]"),
        (lambda z: z.argmax(1, keepdim=True).expand(-1, 4), "int64"),
    ],
)
def test_outputs_that_are_no_logits(x, y, after, words):
    with pytest.raises(PremiseError, match=r"model: got .*; allowed: logits \[(B|2), classes\]") as error:
        evaluate(Net(after), [(x, y)], attack=PGD)
    assert words in str(error.value)


def test_outputs_that_name_their_logits(x, y):
    model = Net()
    expected = measure(model, x, y)
    for after in (lambda z: {"logits": z, "loss": 0}, Output):
        model.after = after
        assert measure(model, x, y) == expected


def test_an_output_without_a_gradient(x, y):
    with pytest.raises(PremiseError, match="without a gradient"):
        evaluate(Net(torch.Tensor.detach), [(x, y)], attack=PGD)
    assert measure(Net(torch.Tensor.detach), x, y, attack=RandomNoise(0.01))[1] == set()


@pytest.mark.parametrize("after", [lambda z: z.softmax(1), lambda z: (20 * z).sigmoid()])
def test_probabilities(x, y, after):
    assert measure(Net(after), x, y)[1] == {"probabilities"}


def noise_by_place(z):
    return z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (Net(lambda z: F.dropout(z, 0.5)), "chance"),
        (Net(before=lambda x: x + 0.1 * torch.randn_like(x)), "chance"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), Net()), "batch"),
        (Net(before=lambda x: x - x.mean(0)), "batch"),
        (Net(lambda z: z - 0.01 * z[:1]), "batch"),  # relative to the first image
        (Net(noise_by_place), "batch"),  # the same noise each time, by the place in the batch
    ],
)
@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_answers_that_depend_on_chance_or_company(x, y, model, kind, batch_size):
    assert measure(model, x, y, batch_size=batch_size)[1] == {kind}


def test_a_model_without_an_answer(x, y):
    for value in (torch.nan, torch.inf):
        bad = Net(lambda z, value=value: torch.where(z == z.max(), value, z))  # for one image of the batch
        with pytest.raises(PremiseError, match=r"got NaN or infinity for 1 of 12 clean images \(images 0 to 11\)"):
            evaluate(bad, [(x, y)], attack=None)


class NaNFarOut(nn.Module):
    """Right about class 0 for images of 0.5, and NaN, whose argmax is class 0, for any other."""

    def forward(self, images):
        far = (images - 0.5).abs().amax((1, 2, 3)) > 0
        logits = images.mean((1, 2, 3)) + 0.1
        return torch.stack([logits, -logits], 1) / (~far)[:, None]


def test_nan_under_attack_is_no_right_answer():
    images, labels = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    result = evaluate(NaNFarOut(), [(images, labels)], attack=RandomNoise(0.1), warn=lambda text: None)
    assert (result.clean, result.robust) == (4, 0)
    assert any(text.startswith("logits: NaN or infinity for 4 of 4 images") for text in result.warnings)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "infinite",
    [
        lambda x: x.clamp_min(0) ** 0.45,  # a gamma curve: the slope at black is infinite
        lambda x: x + (0 * x[..., :1, :]).square().sum((1, 2, 3), keepdim=True).sqrt(),  # 0 / 0 in the first row
        lambda x: torch.where(x > 0, x.sqrt(), x),  # 0 · inf, from the branch that is not taken
    ],
)
def test_a_gradient_that_is_not_finite_makes_no_nan(norm, infinite, x):
    """Black pixels beside others; what is left of the gradient still fools the model."""
    images = torch.where(torch.arange(16).view(4, 4) < 4, 0.0, 0.5 + 0.01 * x)
    torch.manual_seed(0)
    plain = Net()
    plain.linear.weight.data[:, :4].abs_()
    model = nn.Sequential(Wrapped(infinite), plain)
    labels = model(images).argmax(1)
    asked = []
    watched = nn.Sequential(Wrapped(lambda t: asked.append(t.detach().clone()) or t), model)
    attack = PGDAttack(0.5 if norm == "linf" else 2.0, 0.1, 10, 1, norm)
    result, kinds = measure(watched, images, labels, attack=attack)
    assert (result.clean, kinds) == (12, {"gradients"})
    assert all(t.isfinite().all() for t in asked)
    assert result.robust < 12


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGDAttack(0.1, 0.1, restarts=0), "restarts: got 0; allowed: 1 or more"),
        (lambda: PGDAttack(0.1, 0.1, steps=0), "steps: got 0; allowed: 1 or more"),
        (lambda: PGDAttack(0.1, -0.1), "step_size: got -0.1"),
        (lambda: PGDAttack(float("nan"), 0.1), "eps: got nan"),
        (lambda: PGDAttack(0.1, 0.1, norm="Linf"), "norm: got 'Linf'; allowed: 'linf'"),
        (lambda: PGDAttack(0.1, 0.1, loss="kl"), "loss: got 'kl'; allowed: 'ce', 'margin', 'dlr'"),
        (lambda: PGDAttack(0.1, 0.1, targets=-1), "targets: got -1"),
        (lambda: RandomNoise(0.1, draws=0), "draws: got 0"),
        (lambda: logit_gradient("CE", torch.zeros(1)), "loss: got 'CE'"),
    ],
)
def test_an_attack_that_cannot_be(make, words):
    with pytest.raises(ValueError, match="allowed") as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "classes", "words"),
    [
        ({"loss": "dlr"}, 2, "loss: got 'dlr' with 2 classes; it needs 3 or more"),
        ({"loss": "dlr", "targets": 1}, 3, "loss: got 'dlr', targeted, with 3 classes; it needs 4 or more"),
        ({"loss": "margin", "targets": 4}, 4, "targets: got 4; allowed: 0 to 3, with 4 classes"),
    ],
)
def test_too_few_classes_for_an_attack(x, y, settings, classes, words):
    with pytest.raises(ValueError, match="classes") as error:
        evaluate(Net(classes=classes), [(x, y % classes)], attack=PGDAttack(0.1, 0.1, 2, 1, **settings))
    assert words in str(error.value)


def test_inside_inference_mode(x, y):
    model = Net()
    expected = measure(model, x, y)
    with torch.inference_mode():
        images = x.clone()
        assert images.is_inference()
        assert measure(model, images, y) == expected


def test_nothing_is_asked_twice_after_the_first_batch(x, y):
    """A batch after the first: the clean pass, one pass a step of the attack, and the last iterate's."""
    calls = []

    def count(batches):
        calls.clear()
        model = Net(lambda z: 100 * F.one_hot((calls.append(len(z)) or z).argmax(1), CLASSES) + z)
        labels = model(x).argmax(1)
        calls.clear()
        evaluate(model, [(x, labels)] * batches, attack=PGDAttack(0.0, 0.0, 5, 2), warn=lambda text: None)
        return len(calls)

    one = count(1)
    assert count(4) - one == 3 * (1 + 2 * (5 + 1))
    assert one - (1 + 2 * (5 + 1)) <= 8, "and few on the first"


def run_of(images, labels, **settings):
    loader = ArrayLoader(images, labels, 6, shuffle=False, seed=0, rank=0, world_size=1)
    world = World(0, 1, torch.device("cpu"), 60.0)
    settings = EvaluateConfig(**{"steps": 2, "restarts": 1, "check_masking": False, **settings})
    return lambda models: evaluate_models(models, loader, AttackConfig(eps=0.05), settings, seed=0, world=world)


def test_warnings_stand_in_the_json_and_the_table(x, y, recwarn):
    """Here the images are wrong as well as the model."""
    measure = run_of((x / 255).permute(0, 2, 3, 1).numpy(), y.numpy())
    evaluation = measure({"sound": Net(), "dropping": Net(lambda z: F.dropout(z, 0.5))})
    kinds = {name: [text.split(":")[0] for text in entry["warnings"]] for name, entry in evaluation["models"].items()}
    assert kinds == {"sound": ["images"], "dropping": ["chance", "images"]}
    assert "warning: dropping: chance: asked twice" in format_table(evaluation)
    assert not [w for w in recwarn if w.category is PremiseWarning], "said once, in the table"


def test_the_door_says_in_one_line_what_cannot_be_measured(robust_folder, tmp_path, capsys):
    """Weights that are finite, and too large for finite logits."""
    shutil.copytree(robust_folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    file = tmp_path / "run" / "robust.safetensors"
    huge = {name: value * 1e30 if value.is_floating_point() else value for name, value in load_file(file).items()}
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    save_file(huge, file, header)
    assert door.main([str(tmp_path / "run"), "--quick"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: model: got NaN or infinity for 500 of 500 clean images")


@pytest.mark.parametrize(("loss", "alarms"), [("margin", False), ("ce", True)])
def test_the_masking_probe_climbs_the_evaluations_loss(robust_run, loss, alarms):
    """Logits times 300: the cross-entropy's gradient vanishes, and PGD with it; the margin's does not."""
    sure = nn.Sequential(robust_run.models["robust"], Wrapped(lambda z: 300 * z))
    world = World(0, 1, torch.device("cpu"), 60.0)
    settings = EvaluateConfig(steps=10, restarts=1, images=50, loss=loss)
    attack = AttackConfig(eps=0.15)
    evaluation = evaluate_models({"m": sure}, robust_run.data.test, attack, settings, seed=0, world=world)
    signs = [text for text in evaluation["models"]["m"]["warnings"] if text.split(":")[0] in ("steps", "large eps")]
    assert bool(signs) == alarms
    assert RadiiProbe(0.1, "linf", 1.0, loss=loss).loss == loss


def test_texts_that_differ_by_their_numbers_are_one():
    texts = ["3 points of 7 with a zero gradient", "random", "12 points of 5 with a zero gradient", "random"]
    assert once_each(texts) == ["12 points of 5 with a zero gradient", "random"]
