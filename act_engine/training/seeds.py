"""Every random draw of a run is a function of its seed, the step, and what the draw is for."""

import hashlib


def stream(seed: int, step: int, purpose: str) -> int:
    """A 63-bit seed for one purpose at one step of a run; different arguments give unrelated streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=8).digest(), "big") >> 1
