"""Complexity: the norms against their definitions, and a network fitted on noise against a regularised one."""

import math

import pytest
import torch
from torch import nn

from act_engine.analysis.complexity import fit_noise, measure_norms, spectral_norm
from act_engine.config import Config, from_mapping
from act_engine.data import build_data
from act_engine.evaluation import sample_images
from act_engine.models import build_model, load_weights


@pytest.mark.parametrize("layer", [nn.Linear(5, 7), nn.Conv2d(2, 3, 3, stride=2, padding=1)])
def test_spectral_norm_is_the_largest_singular_value_of_the_layers_matrix(layer: nn.Module):
    shape = (5,) if isinstance(layer, nn.Linear) else (2, 6, 5)
    size = math.prod(shape)
    with torch.no_grad():
        columns = layer(torch.eye(size).view(size, *shape)) - layer(torch.zeros(1, *shape))
    largest = torch.linalg.svdvals(columns.flatten(1))[0]
    assert spectral_norm(layer, shape) == pytest.approx(float(largest), rel=1e-3)


def test_norms_of_a_network_small_enough_to_count_its_paths():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    model[2].running_var.uniform_(0.5, 2)
    model.eval()
    images = torch.rand(20, 1, 2, 2)
    with torch.no_grad():
        labels = model(images).argmax(1)
        logits = model(images[5:])
    labels[:5] = 1 - labels[:5]  # wrong ones have no part in the margin
    scale = model[2].weight / (model[2].running_var + model[2].eps).sqrt()
    first, second = (scale[:, None] * model[1].weight).detach().double(), model[4].weight.detach().double()
    margin = float((logits.amax(1) - logits.amin(1)).median())
    paths = sum(float(first[j, i] * second[k, j]) ** 2 for i in range(4) for j in range(3) for k in range(2))
    spectral = torch.linalg.matrix_norm(first, 2) * torch.linalg.matrix_norm(second, 2)
    norms = measure_norms(model, images, labels)
    assert norms.median_margin == pytest.approx(margin, rel=1e-5)
    assert norms.log10_path_norm == pytest.approx(math.log10(math.sqrt(paths) / margin), abs=1e-4)
    assert norms.log10_spectral_norm == pytest.approx(math.log10(float(spectral) / margin), abs=1e-3)
    with pytest.raises(ValueError, match="none of the images"):
        measure_norms(model, images[5:], 1 - labels[5:])


def test_norms_ignore_the_scale_of_the_logits_and_say_where_there_is_no_path_norm():
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).eval()
    images = torch.rand(20, 1, 8, 8)
    labels = model(images).argmax(1)
    before = measure_norms(model, images, labels)
    with torch.no_grad():
        model.fc.weight *= 5
        model.fc.bias *= 5
    after = measure_norms(model, images, labels)
    assert after.log10_spectral_norm == pytest.approx(before.log10_spectral_norm, abs=1e-4)
    assert after.log10_path_norm == pytest.approx(before.log10_path_norm, abs=1e-4)
    layered = nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10))
    assert measure_norms(layered, images, layered(images).argmax(1)).log10_path_norm is None


def _config(objective: str) -> Config:
    shared = from_mapping(
        {
            "attack": {"eps": 0.15, "step_size": 0.05, "steps": 3},
            "data": {"name": "digits", "batch_size": 64, "train_samples": 256},
            "optim": {"lr": 0.05, "schedule": "cosine", "weight_decay": 0},
            "train": {"epochs": 20, "device": "cpu"},
        }
    )
    return from_mapping({"objective": {"name": objective}}, shared)


def test_a_network_fitted_on_noise_is_more_complex_than_a_regularised_one(tmp_path):
    """The same network, images and half random labels; one is free to fit them, the other trained adversarially.

    Images that must keep their label in a whole ball leave little room for single exceptions: robust training fits
    less noise (Sanyal et al. 2021, arXiv 2007.04028).
    """
    configs = {"free": _config("natural"), "held": _config("madry")}
    settings = {"label_noise": 0.5, "classes": 6, "epochs": None}
    fits = {name: fit_noise(config, tmp_path / name, **settings) for name, config in configs.items()}
    free, held = fits["free"], fits["held"]
    assert free.wrong_labels == held.wrong_labels  # the same images
    assert 0.3 < free.wrong_labels / 256 < 0.55  # half of them times 5 in 6
    assert min(free.fitted_rest, held.fitted_rest) > 0.9  # both have learnt the digits
    assert free.fitted_noise > 0.9
    assert held.fitted_noise < 0.3
    assert held.recovered_labels > free.recovered_labels

    images, labels = sample_images(build_data("digits", batch_size=8, classes=6).test, 200)
    norms = {}
    for name, file in (("free", "natural.safetensors"), ("held", "robust.safetensors")):
        model = build_model("small_cnn", num_classes=6, image_shape=(1, 8, 8)).eval()
        load_weights(model, tmp_path / name / file)
        norms[name] = measure_norms(model, images, labels)
    assert norms["free"].log10_spectral_norm > norms["held"].log10_spectral_norm
    assert norms["free"].log10_path_norm > norms["held"].log10_path_norm

    written = (tmp_path / "free" / "natural.safetensors").stat().st_mtime_ns
    assert fit_noise(configs["free"], tmp_path / "free", **settings) == free  # read back, not trained again
    assert (tmp_path / "free" / "natural.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="other settings"):
        fit_noise(configs["held"], tmp_path / "free", **settings)


def test_folders_of_images_cannot_have_their_labels_replaced(tmp_path):
    config = from_mapping({"data": {"name": "image_folder", "train_samples": None}}, _config("natural"))
    with pytest.raises(ValueError, match=r"--noise: got 0\.5 for a run on image_folder; allowed: none"):
        fit_noise(config, tmp_path / "run", label_noise=0.5, classes=None, epochs=1)
