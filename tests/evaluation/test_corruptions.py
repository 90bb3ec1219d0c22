"""Common corruptions: what they do is what their authors' code does, and an image's belong to its place."""

import colorsys
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from act_engine import build_data, evaluate, load_model
from act_engine.config import from_mapping
from act_engine.evaluation.attacks import Place
from act_engine.evaluation.corruptions import KINDS, corrupt, corruptions_named
from act_engine.runs.evaluations import read_evaluation
from act_engine.training.trainer import Trainer

PLACE = Place(first=0, total=None, seed=0)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth colour pictures of 32 pixels a side, in whole 255ths, with a grey and a black pixel."""
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.random((4, 32, 32, 3)), (0, 2, 2, 0))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    smooth[:, 3, 5], smooth[:, 4, 5] = 0.5, 0
    return torch.from_numpy(np.round(smooth * 255).astype(np.uint8)).permute(0, 3, 1, 2)


def levels(images: torch.Tensor) -> np.ndarray:
    """[B, H, W, C] in 0 to 255, whole."""
    values = images.permute(0, 2, 3, 1).double().numpy() * 255
    assert np.allclose(values, np.round(values), atol=1e-3)
    return np.round(values)


def clean(pictures: torch.Tensor) -> np.ndarray:
    return pictures.permute(0, 2, 3, 1).double().numpy() / 255


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """As the authors enlarge a picture: SciPy's zoom of its middle, trimmed to its size."""
    side = len(image)
    crop = int(np.ceil(side / factor))
    top = (side - crop) // 2
    large = ndimage.zoom(image[top : top + crop, top : top + crop], (factor, factor, 1), order=1)
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


def in_hsv(image: np.ndarray, change) -> np.ndarray:
    return np.array([[colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in row] for row in image])


def mean_filtered(image: np.ndarray, weights: list[list[float]]) -> np.ndarray:
    return ndimage.correlate(image, np.array(weights)[:, :, None], mode="mirror")


PLUS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]) / 5
# severity 3, with CIFAR-10-C's numbers written out again
REFERENCES = {
    "gaussian_blur": lambda x: ndimage.gaussian_filter(x, (0.7, 0.7, 0), mode="nearest", truncate=4),
    "zoom_blur": lambda x: (x + sum(zoomed(x, 1 + 0.01 * i) for i in range(16))) / 17,
    "brightness": lambda x: in_hsv(x, lambda h, s, v: (h, s, min(1, v + 0.15))),
    "saturate": lambda x: in_hsv(x, lambda h, s, v: (h, min(1, s * 1.5), v)),
    "contrast": lambda x: (x - x.mean((0, 1))) * 0.4 + x.mean((0, 1)),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_it_is_what_scipy_and_colorsys_make_of_it(kind, pictures):
    expected = np.stack([REFERENCES[kind](x) for x in clean(pictures)])
    expected = np.floor(np.clip(expected, 0, 1) * 255 + 1e-3)
    # float32 on one side: a value within its rounding of a whole number may be cut off to the next one below.
    difference = np.abs(levels(corrupt(pictures, kind, 3, PLACE)) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005
    assert np.abs(expected - clean(pictures) * 255).max() > 3


def test_the_numbers_with_an_offset_of_saturation(pictures):
    """Severity 4 adds saturation, which a grey pixel has none of: it turns red, as in the authors' code."""
    expected = np.stack([in_hsv(x, lambda h, s, v: (h, min(1, s * 2 + 0.1), v)) for x in clean(pictures)])
    difference = np.abs(levels(corrupt(pictures, "saturate", 4, PLACE)) - np.floor(expected * 255 + 1e-3))
    assert difference.max() <= 1


def test_a_disk_is_out_of_focus(pictures):
    """Severity 4: a disk of radius 1, a plus of five pixels, blurred by a bell of deviation 0.2 pixels."""
    side = np.exp(-0.5 / 0.2**2)
    bell = np.array([side, 1, side]) / (1 + 2 * side)
    weights = ndimage.convolve(np.pad(PLUS, 2), np.outer(bell, bell), mode="constant")
    expected = np.stack([mean_filtered(x, weights) for x in clean(pictures)])
    difference = np.abs(levels(corrupt(pictures, "defocus_blur", 4, PLACE)) - np.floor(expected * 255 + 1e-3))
    assert difference.max() <= 1
    large = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    blurred = corrupt(large, "defocus_blur", 5, PLACE)  # ImageNet-C's numbers: a radius of 10
    mean = ndimage.correlate(large[0, 0].numpy(), np.hypot(*np.mgrid[-10:11, -10:11]) <= 10, mode="mirror") / 317
    assert np.abs(blurred[0, 0].numpy() - mean).max() < 0.03  # but for the disk's blurred edge
    assert large.std() > 10 * blurred.std()


def test_files_and_boxes_are_pillows(pictures):
    for index, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
        image, file = Image.fromarray(picture), io.BytesIO()
        image.save(file, "JPEG", quality=58)
        expected = (
            np.asarray(Image.open(file)),
            np.asarray(image.resize((27, 27), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)),
        )
        for kind, wanted in zip(("jpeg_compression", "pixelate"), expected, strict=True):
            assert np.array_equal(levels(corrupt(pictures, kind, 3, PLACE))[index], wanted)


def test_noise_has_the_published_size():
    grey = torch.full((8, 3, 32, 32), 0.5)
    count = grey.numel()
    for kind, deviation in (
        ("gaussian_noise", 0.08),
        ("speckle_noise", 0.5 * 0.12),
        ("shot_noise", (0.5 / 100) ** 0.5),
    ):
        noise = corrupt(grey, kind, 3, PLACE) - 0.5 + 0.5 / 255  # rounded down: half a step lower in the mean
        # A deviation and a mean of so many normal draws have relative errors of 1 / sqrt(2 n) and 1 / sqrt(n); five.
        assert noise.std().item() == pytest.approx(deviation, rel=5 / (2 * count) ** 0.5 + 0.01), kind
        assert noise.mean().item() == pytest.approx(0, abs=5 * deviation / count**0.5 + 0.2 / 255), kind
    struck = corrupt(grey, "impulse_noise", 5, PLACE)
    for value in (0, 1):
        assert (struck == value).float().mean().item() == pytest.approx(0.035, abs=5 * (0.035 / count) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_images_corruption_is_its_own_and_grows_with_the_severity(kind, pictures):
    whole = corrupt(pictures, kind, 2, PLACE)
    part = corrupt(pictures[2:], kind, 2, Place(first=2, total=None, seed=0))
    assert (whole[2:] - part).abs().max() <= 1.001 / 255  # a mean in another order, then cut off
    assert whole.min() >= 0
    assert whole.max() <= 1
    images = pictures / 255
    done = [(corrupt(images, kind, severity, PLACE) - images).abs().mean().item() for severity in (1, 5)]
    assert 0 < done[0] < done[1] or kind == "saturate"  # which takes away first, and then adds


def test_kinds_by_name():
    assert corruptions_named(["contrast", "contrast"], 3) == ("contrast",)
    assert set(corruptions_named(["all"], 3)) == set(KINDS)
    assert "saturate" not in corruptions_named(["all"], 1)
    with pytest.raises(ValueError, match=r"corruptions: got 'contrasts'; allowed: all, .*; did you mean 'contrast'"):
        corruptions_named(["contrasts"], 3)
    with pytest.raises(ValueError, match=r"got 'saturate'; allowed with grey images: all, gaussian_noise"):
        corruptions_named(["saturate"], 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short natural training on digits, and a test set of its user's own in an .npz file, which lacks classes."""
    folder = tmp_path_factory.mktemp("corrupted")
    images, labels = next(build_data("digits", batch_size=500).test.epoch(0))
    few = labels < 4
    arrays = {"test_images": images[few].permute(0, 2, 3, 1).numpy(), "test_labels": labels[few].numpy()}
    np.savez(folder / "mine.npz", **arrays)
    settings = {
        "objective": {"name": "natural"},
        "train": {"epochs": 3, "device": "cpu"},
        "evaluate": {"attack": "none", "images": 100, "corruptions": ["pixelate"], "also": [str(folder / "mine.npz")]},
    }
    assert Trainer(from_mapping(settings), folder / "run").run() == 0
    return folder


def test_a_training_ends_with_them(run):
    found = read_evaluation(next((run / "run" / "evaluations").glob("clean-100-corruptions-1-also-mine.json")))
    entry = found["models"]["natural"]
    assert entry["corruptions"].keys() == {"pixelate"}
    assert 0.5 < entry["on_mine_accuracy"] <= 1


def test_they_are_columns_of_an_evaluation(run, capsys):
    words = [str(run / "run"), "--corruptions", "contrast", "gaussian_noise", "--images", "200"]
    assert evaluate.main(words) == 0
    found = read_evaluation(run / "run" / "evaluation.json")["models"]["natural"]
    assert found["corruptions"].keys() == {"contrast", "gaussian_noise"}
    mean = np.mean(list(found["corruptions"].values()))
    assert found["corrupted_accuracy"] == pytest.approx(mean)
    assert found["corruptions"]["contrast"][4] < found["corruptions"]["contrast"][0] <= 1
    low, high = found["intervals"]["corrupted_accuracy"]
    assert low < mean < high
    printed = capsys.readouterr().out
    assert "corrupted %" in printed
    assert "natural: worst corruption contrast, severities 1 to 5: " in printed
    assert evaluate.main([*words, "--batch_size", "37"]) == 0
    again = read_evaluation(run / "run" / "evaluation.json")["models"]["natural"]
    assert again["corruptions"]["gaussian_noise"] == pytest.approx(found["corruptions"]["gaussian_noise"], abs=0.01)


def test_a_second_test_set_is_a_column(run, capsys):
    images, labels = next(build_data("digits", batch_size=500).test.epoch(0))
    kept = labels < 4
    assert evaluate.main([str(run / "run"), "--also", str(run / "mine.npz"), "--images", "500"]) == 0
    evaluation = json.loads((run / "run" / "evaluation.json").read_text())
    assert evaluation["also"] == {"mine": {"path": str(run / "mine.npz"), "samples": int(kept.sum())}}
    found = evaluation["models"]["natural"]
    model = load_model(run / "run" / "natural.safetensors")
    right = (model(images[kept]).argmax(1) == labels[kept]).float().mean().item()
    assert found["on_mine_accuracy"] == pytest.approx(right)
    printed = capsys.readouterr().out
    assert "mine %" in printed
    assert f"mine: clean accuracy on the {int(kept.sum())} images of {run / 'mine.npz'}" in printed
    assert evaluate.main([str(run / "run"), "--also", str(run / "mine.npz"), "--among", "present"]) == 0
    among = read_evaluation(next((run / "run" / "evaluations").glob("*among-present*")))["models"]["natural"]
    chosen = (model(images[kept])[:, :4].argmax(1) == labels[kept]).float().mean().item()
    assert among["on_mine_accuracy"] == pytest.approx(chosen)
    assert "the model chose among those classes alone" in capsys.readouterr().out
    np.savez(run / "large.npz", test_images=np.zeros((2, 9, 9, 1), np.uint8), test_labels=np.zeros(2, int))
    for path, message in (("large.npz", "with images [1, 9, 9]; allowed: [1, 8, 8]"), ("nowhere.npz", "there is no")):
        with pytest.raises(SystemExit):
            evaluate.main([str(run / "run"), "--also", str(run / path)])
        error = capsys.readouterr().err
        assert f"evaluate.also: got '{run / path}'" in error
        assert message in error
        assert error.count("\n") == 1
