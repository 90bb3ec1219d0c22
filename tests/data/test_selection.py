"""Which images of a data set a run uses, and the data set in which accuracy and robustness pull apart."""

import numpy as np
import pytest
import torch

from act_engine.data import build_data
from act_engine.data.selection import balanced, select
from act_engine.data.sources import Arrays, digits
from act_engine.data.textures import AMPLITUDE, CYCLES, SHAPES, SIDE, textures


@pytest.fixture(scope="module")
def whole() -> Arrays:
    return digits()


def keys(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_first_classes(whole: Arrays):
    part = select(whole, classes=3)
    assert part.num_classes == 3
    assert set(part.train_labels) == set(part.test_labels) == {0, 1, 2}
    assert len(part.train_labels) == (whole.train_labels < 3).sum()
    assert keys(part.train_images) == keys(whole.train_images[whole.train_labels < 3])


def test_held_out_images_are_balanced_and_never_trained_on(whole: Arrays):
    part = select(whole, validation_samples=200, seed=1)
    assert np.bincount(part.test_labels).tolist() == [20] * 10
    assert len(part.train_labels) == 1097
    assert not keys(part.train_images) & keys(part.test_images)
    assert not keys(part.test_images) & keys(whole.test_images)
    fewer = select(whole, validation_samples=200, train_samples=100, seed=1)
    assert np.array_equal(fewer.test_images, part.test_images)
    assert keys(fewer.train_images) <= keys(part.train_images)
    assert np.bincount(fewer.train_labels).tolist() == [10] * 10
    other = select(whole, validation_samples=200, seed=2)
    assert keys(other.test_images) != keys(part.test_images)


def test_a_scarce_class_is_taken_whole():
    labels = np.repeat([0, 1, 2], [50, 50, 3])
    chosen = balanced(labels, 23, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [10, 10, 3]
    assert (np.diff(chosen) > 0).all()


def test_label_noise_replaces_as_many_labels_as_it_says(whole: Arrays):
    noisy = select(whole, label_noise=0.4)
    assert np.array_equal(noisy.train_images, whole.train_images)
    assert np.array_equal(noisy.test_labels, whole.test_labels)
    changed = noisy.train_labels != whole.train_labels
    expected, deviation = 0.36, (0.36 * 0.64 / len(changed)) ** 0.5  # 9 in 10 drawn labels are other ones
    assert abs(changed.mean() - expected) < 4 * deviation
    assert set(noisy.train_labels[changed]) == set(range(10))
    assert np.array_equal(select(whole, label_noise=0.4).train_labels, noisy.train_labels)
    assert not np.array_equal(select(whole, label_noise=0.4, seed=1).train_labels, noisy.train_labels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": 11}, "data.classes: 11 given; .*2 to 10"),
        ({"train_samples": 1298}, "data.train_samples: 1298 given; .*1 to 1297"),
        ({"validation_samples": 1297}, "data.validation_samples: 1297 given; .*1 to 1296"),
    ],
)
def test_more_than_there_is(whole: Arrays, options: dict, words: str):
    with pytest.raises(ValueError, match=words):
        select(whole, **options)


def test_image_folders_are_used_as_they_are(tmp_path):
    with pytest.raises(ValueError, match="validation_samples: 5 given; image_folder"):
        build_data("image_folder", path=str(tmp_path), batch_size=1, validation_samples=5)


def test_the_loader_has_the_part():
    data = build_data("digits", batch_size=10, classes=4, validation_samples=40, train_samples=100)
    assert (data.num_classes, data.train.num_samples, data.test.num_samples) == (4, 100, 40)


def test_textures_are_uint8_and_a_function_of_their_seed():
    first, again, other = textures(0), textures(0), textures(1)
    for mine, same, different in zip(first[:4], again[:4], other[:4], strict=True):
        assert np.array_equal(mine, same)
        assert not np.array_equal(mine, different)
    assert first.train_images.shape == (2000, SIDE, SIDE, 1)
    assert first.train_images.dtype == first.test_images.dtype == np.uint8
    assert np.bincount(first.test_labels).tolist() == [200] * len(SHAPES)
    assert 0 < first.train_images.min() <= first.train_images.max() < 255  # nothing cut off, room for the texture


def test_the_grating_always_tells_the_class_and_fits_into_the_ball():
    """Its class is the strongest of the gratings' frequencies; taking it out and putting another in costs 8/255."""
    data = textures(0)
    spectra = np.abs(np.fft.fft2(data.test_images[..., 0].astype(float)))
    strengths = np.stack([spectra[:, y % SIDE, x % SIDE] for x, y in CYCLES], 1)
    assert (strengths.argmax(1) == data.test_labels).mean() > 0.97
    assert 2 * AMPLITUDE <= 8 / 255


def test_the_shape_tells_the_class_in_three_of_four_pictures():
    """Neighbours in pictures without the fine detail are right about as often as the shape is, and no more often."""
    train, labels = textures(0)[:2]
    coarse = torch.nn.functional.avg_pool2d(torch.from_numpy(train[..., 0].astype(np.float32))[:, None], 4).flatten(1)
    coarse = coarse / coarse.norm(dim=1, keepdim=True)
    similar = coarse @ coarse.T
    similar.fill_diagonal_(-1)
    nearest = labels[similar.topk(15).indices.numpy()]
    voted = np.array([np.bincount(row).argmax() for row in nearest])
    accuracy = (voted == labels).mean()
    assert 0.6 < accuracy < 0.8
