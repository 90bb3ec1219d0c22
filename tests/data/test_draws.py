"""Draws by counter: the published generator's numbers, uniform, and any of them without the others."""

import numpy as np
import pytest

from act_engine.data.crops import CROP_DRAWS, RATIO, SCALE, random_resized_crops
from act_engine.data.draws import uniforms

MASK = 2**64 - 1


def splitmix64(state: int, count: int) -> list[int]:
    """The generator as it is published: a state that moves on, mixed."""
    numbers = []
    for _ in range(count):
        state = state + 0x9E3779B97F4A7C15 & MASK
        bits = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & MASK
        numbers.append(bits ^ bits >> 31)
    return numbers


def test_the_numbers_are_splitmix64s():
    """The first of state 1234567 are those that Rosetta Code lists for other implementations."""
    listed = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert splitmix64(1234567, 5) == listed
    expected = np.array([number >> 11 for number in splitmix64(1234567, 12)]) * 2.0**-53
    assert np.array_equal(uniforms(1234567, np.arange(4), 3).ravel(), expected)


def test_a_part_of_the_batch_draws_what_the_whole_draws():
    whole = uniforms(2**63 + 5, np.arange(1000), 7)
    assert np.array_equal(uniforms(2**63 + 5, np.arange(400, 420), 7), whole[400:420])


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_the_numbers_are_uniform_and_independent(key: int):
    """Each tenth's count within 5 standard deviations, and no correlation between neighbours beyond 5."""
    drawn = uniforms(key, np.arange(20_000), 5)
    counts = np.histogram(drawn, 10, (0, 1))[0]
    assert np.abs(counts - 10_000).max() < 5 * (100_000 * 0.1 * 0.9) ** 0.5
    centred = (drawn - 0.5) * 12**0.5
    for one, other in ((centred[:, 0], centred[:, 1]), (centred[:-1, 0], centred[1:, 0])):
        assert abs((one * other).mean()) < 5 / len(one) ** 0.5


def test_crops_have_torchvisions_distribution():
    """On a large square nearly every first attempt fits: area uniform, and the ratio's logarithm uniform."""
    drawn = uniforms(3, np.arange(20_000), CROP_DRAWS)
    crops = random_resized_crops(drawn, np.full((20_000, 2), 4000))
    top, left, height, width = crops.T.astype(float)
    assert (top + height <= 4000).all()
    assert (left + width <= 4000).all()
    area, ratio = height * width / 4000**2, np.log(width / height)
    small = area < 0.7  # these fit whatever their ratio
    low, high = SCALE[0], 0.7
    deviation = (high - low) / 12**0.5 / small.sum() ** 0.5
    assert abs(area[small].mean() - (low + high) / 2) < 5 * deviation
    spread = np.log(RATIO[1] / RATIO[0])
    assert abs(ratio[small].mean()) < 5 * spread / 12**0.5 / small.sum() ** 0.5
    assert (np.abs(ratio) <= np.log(RATIO[1]) + 1e-2).all()  # sides are rounded to pixels
