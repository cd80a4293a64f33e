"""Scores of many images by many rewards: a matrix in which missing scores are masked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class RewardBatch:
    """Scores of I images, in the order they were submitted, or in that of their numbers once joined.

    Attributes:
        numbers: int64 (I,), of the images in the run; their places where nothing else is known.
        names: the R rewards that may be trained on.
        rewards: float32 (I, R); 0 where not valid, which means nothing.
        valid: bool (I, R): there is a score. False where a call failed, and where the weight was 0.
        weights: float32 (I, R), as submitted.
        reasons: what was said, or why there is no score: a text by reward name, for each image.
        held_out_names, held_out, held_out_valid: the same for the H judges that are only watched: (I, H).
        metrics: numbers for the log, such as "clip_sim/failure_rate"; see `RewardEnsemble.collect`.
    """

    numbers: np.ndarray
    names: tuple[str, ...]
    rewards: np.ndarray
    valid: np.ndarray
    weights: np.ndarray
    reasons: tuple[Mapping[str, str], ...]
    held_out_names: tuple[str, ...]
    held_out: np.ndarray
    held_out_valid: np.ndarray
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> tuple[Mapping[str, str], ...]:
        """The former name of `reasons`, for one release."""
        warnings.warn("RewardBatch.words is now RewardBatch.reasons", DeprecationWarning, stacklevel=2)
        return self.reasons

    def numbered(self, numbers: Sequence[int]) -> RewardBatch:
        """The same scores with the images' numbers in the run.

        Raises:
            ValueError: there are not as many numbers as images.
        """
        if len(numbers) != len(self.reasons):
            raise ValueError(
                f"{len(numbers)} images were drawn and {len(self.reasons)} scored; collect after each rollout"
            )
        return replace(self, numbers=np.array(numbers, dtype=np.int64))

    @staticmethod
    def gather(parts: Sequence[RewardBatch]) -> RewardBatch:
        """Those of all processes, in the order of their numbers, without metrics: those are of one each."""
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _PER_IMAGE}
        reasons = [reason for part in parts for reason in part.reasons]
        first = replace(parts[0], **joined, reasons=tuple(reasons), metrics={})
        return first._select(np.argsort(first.numbers, kind="stable"))

    def __add__(self, other: RewardBatch) -> RewardBatch:
        """Both, in the order of their numbers."""
        return RewardBatch.gather([self, other])

    def without(self, groups: np.ndarray, group_size: int) -> RewardBatch:
        """All but the images of some groups; group g has the numbers from g * group_size on."""
        return self._select(np.flatnonzero(~np.isin(self.numbers // group_size, groups)))

    def _select(self, places: np.ndarray) -> RewardBatch:
        arrays = {name: getattr(self, name)[places] for name in _PER_IMAGE}
        return replace(self, **arrays, reasons=tuple(self.reasons[place] for place in places.tolist()))


_PER_IMAGE = ("numbers", "rewards", "valid", "weights", "held_out", "held_out_valid")
