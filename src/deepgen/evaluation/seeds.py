"""Seeds of a benchmark's pictures.

By default every (item, sample) has a seed of its own, so a picture depends neither on the batch nor on the
number of processes. `sequential` is what the original scripts do: one generator a process, seeded once,
consumed batch after batch; its pictures are those of one set-up only.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Mode = Literal["each", "sequential"]


def seed_of(base: int, benchmark: str, item: str, sample: int) -> int:
    """The seed of one picture, in [0, 2^53): the first 53 bits of a SHA-256 over the four."""
    digest = hashlib.sha256(f"{base}\0{benchmark}\0{item}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11
