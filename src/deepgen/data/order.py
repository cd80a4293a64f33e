"""The order of a shuffled stream, computed instead of stored.

Place `position` of an endless stream over `size` rows is found in constant time and memory: the pass it falls
into picks a keyed permutation, and a Feistel network evaluates that permutation at one point. So a run goes
on from any step at once, and 35 million rows need no list of 35 million numbers.

The network works on pairs (left, right) of Z_a x Z_b with a and b near the root of `size`, adding a keyed
hash of one half to the other in turn (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
The few pairs beyond `size` are walked over.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import isqrt

_ROUNDS = 8
_MASK = 2**64 - 1


def index_at(position: int, size: int, seed: int, stream: str = "") -> int:
    """The row, in [0, size), at a place of the endless stream: pass after pass, each row once in each.

    Args:
        position: 0, 1, 2, ...
        size: rows.
        seed: of the run.
        stream: names the stream, so that two of the same size are shuffled differently.
    """
    if size < 1 or position < 0:
        raise ValueError(f"expected size >= 1 and position >= 0, got size {size}, position {position}")
    epoch, place = divmod(position, size)
    return permute(place, size, stream_key(seed, epoch, stream))


def permute(place: int, size: int, key: int) -> int:
    """The value at `place` of permutation number `key` of [0, size)."""
    if not 0 <= place < size:
        raise ValueError(f"expected a place in [0, {size}), got {place}")
    left_size = isqrt(size - 1) + 1 if size > 1 else 1
    right_size = -(-size // left_size)
    value = place
    while (
        True
    ):  # the network permutes [0, left_size * right_size); walking on stays a permutation of [0, size)
        value = _network(value, left_size, right_size, key)
        if value < size:
            return value


@lru_cache(maxsize=1024)
def stream_key(seed: int, epoch: int, stream: str) -> int:
    """64 bits that depend on everything given."""
    text = f"{seed}/{epoch}/{stream}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def random_bits(key: int, counter: int) -> int:
    """64 random bits for each counter: SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (key + (counter + 1) * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _network(value: int, left_size: int, right_size: int, key: int) -> int:
    left, right = divmod(value, right_size)
    for turn in range(0, 2 * _ROUNDS, 2):
        left = (left + random_bits(key ^ right, turn)) % left_size
        right = (right + random_bits(key ^ left, turn + 1)) % right_size
    return left * right_size + right
