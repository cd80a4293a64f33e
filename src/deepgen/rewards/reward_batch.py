"""Scores of many images by many rewards: a matrix, masked where there is none, and the reasons counted."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deepgen.rewards.reward import RewardResult

_LONGEST_REASON = 100  # characters, of a reason that is counted
_MOST_REASONS = 8  # of one reward that are counted apart
_OTHERS = "other reasons"


@dataclass(frozen=True)
class ScoreTally:
    """What one reward said when it was asked: its scores, and how many images have none, by the reason.

    Attributes:
        values: the scores, in no order.
        masked: images without a score by `reason_kind`.
    """

    values: tuple[float, ...] = ()
    masked: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[RewardResult]) -> ScoreTally:
        """Of what one reward answered."""
        return cls(
            tuple(result.score for result in results if result.score is not None),
            Counter(reason_kind(result.reason) for result in results if result.score is None),
        )

    @property
    def num_scored(self) -> int:
        """Images with a score."""
        return len(self.values)

    @property
    def num_masked(self) -> int:
        """Images without one."""
        return sum(self.masked.values())

    @property
    def num_asked(self) -> int:
        """Images the reward was asked about."""
        return self.num_scored + self.num_masked

    def __add__(self, other: ScoreTally) -> ScoreTally:
        """Of both; the rarest reasons are counted together where there are many."""
        masked = Counter(self.masked) + Counter(other.masked)
        named = Counter({reason: count for reason, count in masked.items() if reason != _OTHERS})
        if len(named) > _MOST_REASONS:
            kept = dict(named.most_common(_MOST_REASONS))
            masked = {**kept, _OTHERS: masked.total() - sum(kept.values())}
        return ScoreTally(self.values + other.values, dict(masked))

    def __str__(self) -> str:
        """In words: "11 of 16 images scored; no score for 5: no answer within 180 s (5)"."""
        text = f"{self.num_scored} of {self.num_asked} images scored"
        if not self.masked:
            return text
        return f"{text}; no score for {self.num_masked}: {counted(self.masked)}"


def reason_kind(reason: str) -> str:
    """A reason as it is counted: its first line, without the numbers that make each one another."""
    first = " ".join((reason.strip().splitlines() or ["no reason given"])[0].split())
    kind = re.sub(r"\d+(\.\d+)?", "#", first)
    return kind if len(kind) <= _LONGEST_REASON else kind[: _LONGEST_REASON - 3] + "..."


def counted(reasons: Mapping[str, int]) -> str:
    """Reasons and their counts in words, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} ({count})" for reason, count in ordered)


def added_tallies(parts: Iterable[Mapping[str, ScoreTally]]) -> dict[str, ScoreTally]:
    """Of several batches or processes, by reward."""
    total: dict[str, ScoreTally] = {}
    for part in parts:
        for name, tally in part.items():
            total[name] = total[name] + tally if name in total else tally
    return total


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
        tallies: of each reward that was asked, held-out ones too, over all images it was asked about, those
            that were taken out again included.
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
    tallies: Mapping[str, ScoreTally] = field(default_factory=dict)

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
        tallies = added_tallies(part.tallies for part in parts)
        first = replace(parts[0], **joined, reasons=tuple(reasons), metrics={}, tallies=tallies)
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
