"""Policies, jitter and erasing: against plain code, and by place whatever the ranks and the step gone on from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from act_engine.data.arrays import ArrayLoader
from act_engine.data.augmenting import DRAWS, Augmenting, erased, jittered
from act_engine.data.draws import uniforms

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 12, 3), np.uint8)
DRAWN = uniforms(5, np.arange(24), DRAWS)


def batch() -> torch.Tensor:
    return torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


def test_jitter_is_torchvisions_with_these_factors():
    images, numbers = batch().double() / 255, torch.from_numpy(DRAWN[:, :3])
    found = jittered(images, 0.4, numbers)
    for image, drawn, ours in zip(images, numbers, found, strict=True):
        brightness, contrast, saturation = (float(1 + 0.4 * (2 * number - 1)) for number in drawn)
        image = v2.functional.adjust_brightness(image, brightness)
        image = v2.functional.adjust_contrast(image, contrast)
        # torchvision's grey has weights that sum to 0.9999, as ours.
        torch.testing.assert_close(ours, v2.functional.adjust_saturation(image, saturation), rtol=0, atol=1e-6)


def test_erasing_makes_rectangles_of_the_right_size_black_and_leaves_the_rest():
    images = torch.ones(4000, 1, 20, 30)
    found = erased(images, 0.25, torch.from_numpy(uniforms(1, np.arange(4000), 5)))
    holes = found[:, 0] == 0
    hit = holes.flatten(1).any(1)
    assert abs(hit.float().mean() - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5  # five standard deviations
    for hole in holes[hit]:
        rows, columns = hole.any(1), hole.any(0)
        assert hole.sum() == rows.sum() * columns.sum()  # a whole rectangle
    shares = holes[hit].float().mean((1, 2))
    assert shares.max() <= 0.36  # a third, and the rounding of two sides
    assert shares.mean() > 0.1
    edges = holes[hit].any(0)
    assert edges.all()  # anywhere
    assert torch.equal(erased(images, 0.0, torch.rand(4000, 5)), images)


@pytest.mark.parametrize("policy", ["trivialaugment", "randaugment", "autoaugment_cifar10"])
def test_a_policy_is_torchvisions_and_leaves_the_generator_alone(policy: str):
    before = torch.get_rng_state()
    found = Augmenting(policy)(batch(), DRAWN)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(found, Augmenting(policy)(batch(), DRAWN))
    changed = (found != batch()).flatten(1).any(1)
    assert changed.sum() >= 8
    transforms = {"trivialaugment": v2.TrivialAugmentWide(), "randaugment": v2.RandAugment()}
    if policy in transforms:
        torch.manual_seed(int(DRAWN[3, 0] * 2**53))
        assert torch.equal(found[3], transforms[policy](batch()[3]))
        torch.set_rng_state(before)


def loader(batch_size: int, **options) -> ArrayLoader:
    augmenting = Augmenting("trivialaugment", jitter=0.3, erasing=0.5)
    return ArrayLoader(IMAGES, np.arange(24), batch_size, shuffle=True, augmenting=augmenting, **options)


def test_an_image_is_changed_by_its_place_alone():
    alone = list(loader(8).epoch(2))
    ranks = [list(loader(4, rank=rank, world_size=2).epoch(2)) for rank in range(2)]
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))
    half = loader(8)
    next(half.epoch(2))
    resumed = loader(8)
    resumed.load_state_dict(half.state_dict())
    for whole, ours in zip(alone[1:], resumed.epoch(2), strict=True):
        assert torch.equal(whole.images, ours.images)
    assert not torch.equal(alone[0].images, next(loader(8).epoch(3)).images)


def test_a_policy_on_images_that_torchvision_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"data.policy: got 'randaugment'; allowed with torch.float32"):
        Augmenting("randaugment")(torch.rand(2, 1, 8, 8), DRAWN[:2])
