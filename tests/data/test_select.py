"""Which images of a data set a run uses, and the data set in which accuracy and robustness pull apart."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from act_engine.data import build_data
from act_engine.data.digits import digits
from act_engine.data.selection import balanced, select, usual_selection
from act_engine.data.splits import Splits
from act_engine.data.textures import AMPLITUDE, CYCLES, SHAPES, SIDE, textures


@pytest.fixture(scope="module")
def whole() -> Splits:
    return digits()


def keys(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_first_classes(whole: Splits):
    part = select(whole, classes=3)
    assert part.num_classes == 3
    assert set(part.train.labels) == set(part.test.labels) == {0, 1, 2}
    assert len(part.train.labels) == (whole.train.labels < 3).sum()
    assert keys(part.train.images) == keys(whole.train.images[whole.train.labels < 3])


def test_held_out_images_are_balanced_and_never_trained_on(whole: Splits):
    part = select(whole, validation_samples=200, seed=1)
    assert np.bincount(part.test.labels).tolist() == [20] * 10
    assert len(part.train.labels) == 1097
    assert not keys(part.train.images) & keys(part.test.images)
    assert not keys(part.test.images) & keys(whole.test.images)
    fewer = select(whole, validation_samples=200, train_samples=100, seed=1)
    assert np.array_equal(fewer.test.images, part.test.images)
    assert keys(fewer.train.images) <= keys(part.train.images)
    assert np.bincount(fewer.train.labels).tolist() == [10] * 10
    other = select(whole, validation_samples=200, seed=2)
    assert keys(other.test.images) != keys(part.test.images)


def test_selection_images_are_held_out_of_the_training_images(whole: Splits):
    part = select(whole, selection_samples=50, validation_samples=200, train_samples=300, label_noise=0.5)
    assert np.bincount(part.selection.labels).tolist() == [5] * 10
    held = keys(part.selection.images)
    assert not held & (keys(part.train.images) | keys(part.test.images) | keys(whole.test.images))
    assert held <= keys(whole.train.images)
    again = select(whole, selection_samples=50, validation_samples=200)
    assert np.array_equal(again.selection.images, part.selection.images)  # whatever else is chosen
    assert np.array_equal(again.selection.labels, part.selection.labels)  # no noise on them
    assert keys(select(whole, selection_samples=50, seed=1).selection.images) != held
    assert select(whole).selection is None


@pytest.mark.parametrize(("images", "count"), [(1297, 26), (20_000, 400), (50_000, 1000), (1_281_167, 1000), (10, 1)])
def test_the_usual_number_of_selection_images(images: int, count: int):
    assert usual_selection(images) == count


def test_a_validation_split_of_its_own_is_what_checkpoints_are_chosen_by(whole: Splits):
    own = replace(whole, selection=whole.test.keep(np.arange(400)))
    part = select(own, selection_samples=100)
    assert len(part.train) == len(whole.train)
    assert keys(part.selection.images) <= keys(own.selection.images)
    assert np.bincount(part.selection.labels).tolist() == [10] * 10
    assert len(select(own, selection=True).selection) == 26
    assert select(own).selection is None


def test_a_share_of_each_class_is_held_out(whole: Splits):
    part = select(replace(whole, test=None), holdout=0.25)
    counts, held = np.bincount(whole.train.labels), np.bincount(part.test.labels)
    assert held.tolist() == np.rint(counts / 4).tolist()
    assert not keys(part.train.images) & keys(part.test.images)
    with pytest.raises(ValueError, match=r"data\.holdout: got 0\.25; .*held-out images of its own"):
        select(whole, holdout=0.25)


def test_a_scarce_class_is_taken_whole():
    labels = np.repeat([0, 1, 2], [50, 50, 3])
    chosen = balanced(labels, 23, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [10, 10, 3]
    assert (np.diff(chosen) > 0).all()


def test_label_noise_replaces_as_many_labels_as_it_says(whole: Splits):
    noisy = select(whole, label_noise=0.4)
    assert np.array_equal(noisy.train.images, whole.train.images)
    assert np.array_equal(noisy.test.labels, whole.test.labels)
    changed = noisy.train.labels != whole.train.labels
    expected, deviation = 0.36, (0.36 * 0.64 / len(changed)) ** 0.5  # 9 in 10 drawn labels are other ones
    assert abs(changed.mean() - expected) < 4 * deviation
    assert set(noisy.train.labels[changed]) == set(range(10))
    assert np.array_equal(select(whole, label_noise=0.4).train.labels, noisy.train.labels)
    assert not np.array_equal(select(whole, label_noise=0.4, seed=1).train.labels, noisy.train.labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": 11}, "data.classes: got 11; .*2 to 10"),
        ({"train_samples": 1298}, "data.train_samples: got 1298; .*1 to 1297"),
        ({"selection_samples": 1297}, "data.selection_samples: got 1297; .*1 to 1296"),
        ({"validation_samples": 1297}, "data.validation_samples: got 1297; .*1 to 1296"),
    ],
)
def test_more_than_there_is(whole: Splits, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        select(whole, **options)


def test_the_loader_has_the_part():
    options = {"classes": 4, "validation_samples": 40, "train_samples": 100, "selection_samples": 12}
    data = build_data("digits", batch_size=10, **options)
    counts = (data.train.num_samples, data.test.num_samples, data.selection.num_samples)
    assert (data.num_classes, *counts) == (4, 100, 40, 12)


@pytest.mark.parametrize("name", ["image_folder", "webdataset"])
def test_the_loader_has_the_part_of_image_files(name: str, image_tree: Path, image_shards: Path):
    path = {"image_folder": image_tree, "webdataset": image_shards}[name]
    options = {"path": str(path), "batch_size": 4, "image_size": 32}
    data = build_data(name, **options, classes=3, selection_samples=6, train_samples=9, validation_samples=3)
    parts = [data.train.files, data.test.files, data.selection.files]
    assert [np.bincount(part.labels).tolist() for part in parts] == [[3] * 3, [1] * 3, [2] * 3]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == 18
    assert all(str(path / "train") in name for name in names)
    ranks = [build_data(name, **options, selection_samples=5, rank=rank, world_size=2) for rank in range(2)]
    shown = [label for data in ranks for batch in data.selection.epoch(0) for label in batch.labels.tolist()]
    assert sorted(np.bincount(shown).tolist()) == [1, 1, 1, 2]


def _arrays(splits: Splits) -> list[np.ndarray]:
    return [array for part in (splits.train, splits.test) for array in (part.images, part.labels)]


def test_textures_are_uint8_and_a_function_of_their_seed():
    first, again, other = textures(0), textures(0), textures(1)
    for mine, same, different in zip(*(_arrays(splits) for splits in (first, again, other)), strict=True):
        assert np.array_equal(mine, same)
        assert not np.array_equal(mine, different)
    assert first.train.images.shape == (2000, SIDE, SIDE, 1)
    assert first.train.images.dtype == first.test.images.dtype == np.uint8
    assert np.bincount(first.test.labels).tolist() == [200] * len(SHAPES)
    assert 0 < first.train.images.min() <= first.train.images.max() < 255  # nothing cut off, room for the texture


def test_the_grating_always_tells_the_class_and_fits_into_the_ball():
    """Its class is the strongest of the gratings' frequencies; taking it out and putting another in costs 8/255."""
    data = textures(0)
    spectra = np.abs(np.fft.fft2(data.test.images[..., 0].astype(float)))
    strengths = np.stack([spectra[:, y % SIDE, x % SIDE] for x, y in CYCLES], 1)
    assert (strengths.argmax(1) == data.test.labels).mean() > 0.97
    assert 2 * AMPLITUDE <= 8 / 255


def test_the_shape_tells_the_class_in_three_of_four_pictures():
    """Neighbours in pictures without the fine detail are right about as often as the shape is, and no more often."""
    train, labels = _arrays(textures(0))[:2]
    coarse = torch.nn.functional.avg_pool2d(torch.from_numpy(train[..., 0].astype(np.float32))[:, None], 4).flatten(1)
    coarse = coarse / coarse.norm(dim=1, keepdim=True)
    similar = coarse @ coarse.T
    similar.fill_diagonal_(-1)
    nearest = labels[similar.topk(15).indices.numpy()]
    voted = np.array([np.bincount(row).argmax() for row in nearest])
    accuracy = (voted == labels).mean()
    assert 0.6 < accuracy < 0.8
