"""The architectures: shapes, names, normalisation, traceability."""

from __future__ import annotations

import pytest
import torch

from act_engine.models import Normalize, build_model


def test_small_cnn_classifies_digits():
    model = build_model("small_cnn", num_classes=10, image_shape=(1, 8, 8))
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    torch.fx.symbolic_trace(model)


def test_normalisation_is_the_first_layer():
    images = torch.rand(2, 3, 8, 8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model = build_model("small_cnn", num_classes=4, image_shape=(3, 8, 8), mean=mean, std=std).eval()
    assert isinstance(model[0], Normalize)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(model(images), model[1](by_hand))
    assert not any("mean" in name and "running" not in name for name in model.state_dict())


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"model\.name: unknown model 'smal_cnn'; did you mean 'small_cnn'\?"):
        build_model("smal_cnn", num_classes=10)
