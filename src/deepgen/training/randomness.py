"""Random numbers that belong to a sample, not to a process.

Every draw of training is keyed by (seed, purpose, counters), such as the number of the sample in the run.
So it is the same on one process or on sixty-four, after a restart, and whatever else was drawn before; no
two samples share their noise, and no generator's state has to be saved.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The stream of that key; equal keys give equal streams, different keys independent ones."""
    return np.random.default_rng((seed, zlib.crc32(purpose.encode()), *counters))


def normal(seed: int, purpose: str, sample: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of one sample, float32 of that shape."""
    drawn = generator(seed, purpose, sample).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(drawn)


def is_dropped(seed: int, purpose: str, sample: int, probability: float) -> bool:
    """Whether something of that sample is left out, with the given probability."""
    return bool(generator(seed, purpose, sample).random() < probability)


def stratified(seed: int, step: int, size: int) -> np.ndarray:
    """u of every sample of a global batch, float64 (size,) in [0, 1): one in each of `size` equal strata,
    shuffled.

    Independent draws leave gaps and clusters in the noise levels of a batch; strata have neither, and the
    mean over the batch stays an unbiased estimate.
    """
    rng = generator(seed, "timestep", step)
    return (rng.permutation(size) + rng.random(size)) / size
