"""The in-memory sources: contract, sharding, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from act_engine.data import build_data
from act_engine.data.arrays import CROP_PADDING, ArrayLoader, crop_flip


def numbered(count: int, batch_size: int, **options) -> ArrayLoader:
    """A loader whose pictures are their own index, so that a batch says what it holds."""
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    return ArrayLoader(images, np.arange(count), batch_size, **options)


def labels_of(loader, epoch: int = 0) -> list[list[int]]:
    return [batch.labels.tolist() for batch in loader.epoch(epoch)]


def test_digits_keep_the_contract():
    data = build_data("digits", batch_size=128, eval_batch_size=200, order_seed=3)
    assert (data.num_classes, data.image_shape) == (10, (1, 8, 8))
    assert (data.train.num_samples, data.test.num_samples) == (1297, 500)
    assert (len(data.train), len(data.test)) == (10, 3)
    batch = next(data.train.epoch(0))
    assert batch.images.shape == (128, 1, 8, 8)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.images.min() == 0
    assert batch.images.max() == 1
    tested = torch.cat([batch.labels for batch in data.test.epoch(0)])
    assert len(tested) == 500
    assert torch.bincount(tested).min() >= 48  # stratified


def test_the_digits_split_does_not_depend_on_the_seed():
    first, second = (next(build_data("digits", batch_size=8, order_seed=seed).test.epoch(0)) for seed in (0, 1))
    assert torch.equal(first.images, second.images)


def test_order_differs_each_epoch_and_is_the_same_for_the_same_seed():
    loader, again, other = (
        numbered(50, 10, shuffle=True),
        numbered(50, 10, shuffle=True),
        numbered(50, 10, shuffle=True, seed=1),
    )
    assert labels_of(loader, 0) != labels_of(loader, 1)
    assert labels_of(loader, 1) == labels_of(again, 1)
    assert labels_of(loader, 0) != labels_of(other, 0)


@pytest.mark.parametrize("count", [6, 7, 23, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_images(count: int, world_size: int):
    tests = [numbered(count, 2, shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    in_order = [label for loader in tests for batch in labels_of(loader) for label in batch]
    assert in_order == list(range(count))
    trains = [numbered(count, 2, shuffle=True, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(loader) for loader in trains} == {count // (2 * world_size)}
    seen = [label for loader in trains for batch in labels_of(loader) for label in batch]
    assert len(seen) == len(set(seen)) == count // (2 * world_size) * 2 * world_size


def test_a_global_batch_holds_the_same_images_on_any_number_of_ranks():
    alone = labels_of(numbered(40, 6, shuffle=True))
    ranks = [labels_of(numbered(40, 2, shuffle=True, rank=rank, world_size=3)) for rank in range(3)]
    assert alone == [[*first, *second, *third] for first, second, third in zip(*ranks, strict=True)]


def test_more_ranks_than_images():
    with pytest.raises(ValueError, match=r"data\.batch_size: 1 on each of 4 process"):
        numbered(3, 1, shuffle=True, rank=0, world_size=4)
    counts = [len(numbered(3, 1, shuffle=False, rank=rank, world_size=4)) for rank in range(4)]
    assert sum(counts) == 3


@pytest.mark.parametrize("consumed", [0, 1, 4, 5])
def test_resume_goes_on_with_the_very_batches(consumed: int):
    def loader() -> ArrayLoader:
        images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
        return ArrayLoader(images, np.arange(50), 10, shuffle=True, augment="crop_flip", seed=5)

    interrupted = loader()
    stream = interrupted.epoch(2)
    for _ in range(consumed):
        next(stream)
    state = json.loads(json.dumps(interrupted.state_dict()))
    expected = [*stream, *interrupted.epoch(3)]
    resumed = loader()
    resumed.load_state_dict(state)
    going_on = [batch for epoch in range(state["epoch"] if consumed else 2, 4) for batch in resumed.epoch(epoch)]
    assert len(going_on) == len(expected) == 10 - consumed
    for ours, theirs in zip(going_on, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)


def test_a_state_of_other_data_is_refused():
    state = numbered(50, 10, shuffle=True).state_dict()
    with pytest.raises(ValueError, match="num_samples 50, this run has 51"):
        numbered(51, 10, shuffle=True).load_state_dict(state)


def test_crop_flip_is_torch_padding_cropping_and_flipping():
    images = torch.randint(0, 256, (6, 8, 10, 3), dtype=torch.uint8)
    chosen = torch.tensor([3, 0, 5, 1])
    top, left, flip = torch.tensor([0, 8, 3, 4]), torch.tensor([8, 0, 4, 1]), torch.tensor([0, 1, 1, 0])
    ours = crop_flip(images, chosen, top, left, flip).permute(0, 3, 1, 2)
    padding = (CROP_PADDING,) * 4
    padded = torch.nn.functional.pad(images[chosen].permute(0, 3, 1, 2).float(), padding, mode="reflect").byte()
    for row in range(4):
        expected = padded[row, :, top[row] : top[row] + 8, left[row] : left[row] + 10]
        if flip[row]:
            expected = expected.flip(-1)
        assert torch.equal(ours[row], expected)


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match=r"data\.name: got 'digit'; allowed: digits, .*; did you mean 'digits'"):
        build_data("digit", batch_size=8)
