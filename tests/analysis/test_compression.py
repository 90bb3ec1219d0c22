"""Compression: each measure on features whose answer is known, and a bottlenecked network against an open one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from act_engine.analysis.compression import (
    effective_rank,
    intrinsic_dimension,
    measure_compression,
    penultimate,
    probe_accuracy,
)
from act_engine.data import build_data
from act_engine.models import build_model


def test_effective_rank_of_known_spectra():
    values = torch.tensor([3.0, 3.0, 3.0, 0.0])
    basis, _ = torch.linalg.qr(torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    centred = basis - basis.mean(0)
    left, _ = torch.linalg.qr(centred)
    assert effective_rank(left * values) == pytest.approx(3)
    shares = torch.tensor([0.5, 0.25, 0.25])
    entropy = -sum(float(share) * math.log(share) for share in shares)
    assert effective_rank(left[:, :3] * shares + 7) == pytest.approx(math.exp(entropy))  # a constant does not count


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_intrinsic_dimension_of_curved_surfaces(dimension: int):
    """A `dimension`-dimensional sheet, bent into 20 dimensions; the estimator is good to about a tenth here."""
    random = torch.Generator().manual_seed(0)
    sheet = torch.rand(1500, dimension, generator=random)
    bend = torch.randn(dimension, 20, generator=random)
    assert intrinsic_dimension(sheet @ bend + 0.1 * torch.sin(sheet @ bend)) == pytest.approx(dimension, rel=0.12)


def test_intrinsic_dimension_counts_a_repeated_point_once():
    points = torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    assert intrinsic_dimension(points.repeat(3, 1)) == intrinsic_dimension(points)
    with pytest.raises(ValueError, match="20 or more"):
        intrinsic_dimension(points[:5].repeat(30, 1))


def test_the_probe_fits_what_tells_images_apart_and_nothing_else():
    random = torch.Generator().manual_seed(0)
    wide = torch.randn(200, 64, generator=random)
    assert probe_accuracy(wide) > 0.7
    alike = torch.randn(4, 64, generator=random).repeat(
        50, 1
    )  # 4 different images: at best the commonest label of each
    assert probe_accuracy(alike) < 0.3
    assert probe_accuracy(wide) == pytest.approx(probe_accuracy(100 * wide + 3), abs=0.02)  # neither scale nor offset


def test_features_are_what_the_last_linear_layer_reads():
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8)).train()
    images = torch.rand(7, 1, 8, 8)
    features = penultimate(model, images, batch_size=3)
    assert model.training
    assert features.shape == (7, 64)
    model.eval()
    torch.testing.assert_close(model.fc(features), model(images))
    with pytest.raises(ValueError, match="no linear layer"):
        penultimate(nn.Flatten(), images)


def test_a_bottlenecked_network_compresses_more():
    """The same network and training, but for two numbers through which one of them must pass an image."""
    data = build_data("digits", batch_size=128)
    images = next(build_data("digits", batch_size=8, eval_batch_size=300).test.epoch(0)).images
    measured = {}
    for width in (64, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, width))
        model.append(nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 10)))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for epoch in range(30):
            for batch in data.train.epoch(epoch):
                optimizer.zero_grad()
                F.cross_entropy(model(batch.images), batch.labels).backward()
                optimizer.step()
        measured[width] = measure_compression(model, images)
    tight, open_ = measured[2], measured[64]
    assert tight.probe_accuracy < open_.probe_accuracy - 0.1
    assert tight.effective_rank < open_.effective_rank
    assert tight.intrinsic_dimension < open_.intrinsic_dimension
    assert tight.feature_dimension == open_.feature_dimension == 64
