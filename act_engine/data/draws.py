"""Random numbers by counter: any of them is had without those before it."""

from __future__ import annotations

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def uniforms(key: int, places: np.ndarray, count: int) -> np.ndarray:
    """Return `count` uniform numbers in [0, 1) for each of `places` `[B]`: `[B, count]` float64.

    Number (place, i) is number `place * count + i` of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom
    Number Generators", OOPSLA 2014) from the state `key`, an integer below 2^64; its upper 53 bits.
    """
    counter = places.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    bits = np.uint64(key) + counter * np.uint64(GOLDEN)  # modulo 2^64, here and below
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits >> np.uint64(11)) * 2.0**-53


def permuted(index: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where each of `index` `[B]` goes in a random permutation of 0 … count - 1, none of which is held in memory.

    A Feistel network of six rounds on the next larger even number of bits, walked until it falls below `count` (Black
    and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002); its round function is `uniforms`' mixer.
    """
    half = np.uint64(max(1, (max(count - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = np.asarray(index, np.uint64).copy()
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for number in range(6):
            mixed = (uniforms(key + number & 2**64 - 1, right, 1)[:, 0] * 2.0**53).astype(np.uint64)
            left, right = right, left ^ (mixed & mask)
        result[outside] = left << half | right
        outside = result >= count
    return result.astype(np.int64)
