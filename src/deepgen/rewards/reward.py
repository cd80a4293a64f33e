"""The interface of a reward: candidates in, one result each out.

A candidate that could not be judged has no score. It is never worth zero, because a zero is an opinion.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from deepgen.moved import renamed

Kind = Literal["pointwise", "groupwise"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One picture to judge.

    Attributes:
        image: what was drawn, RGB.
        prompt: what was asked, or the instruction of an edit.
        references: what an edit started from, in order.
        metadata: the other fields of the prompt's row, such as `targets` of an OCR reward.
    """

    image: Image.Image
    prompt: str
    references: tuple[Image.Image, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewardResult:
    """The score of one candidate: a finite number, or None and the reason it has none.

    Attributes:
        score: within the reward's range; None where the candidate could not be judged.
        reason: the judge's text or what was measured, to show beside the image; or why there is no score.
        num_questions: questions a judge was asked about this candidate; 0 where there is no judge.
        num_answers: how many of them it answered in the form it was asked for.
    """

    score: float | None
    reason: str = ""
    num_questions: int = 0
    num_answers: int = 0

    def __post_init__(self) -> None:
        """A score that is not finite is a fault of the reward, and has to be named as one."""
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"a score must be finite, got {self.score}; a failure is None with its reason")

    @property
    def words(self) -> str:
        """The former name of `reason`, for one release."""
        warnings.warn("RewardResult.words is now RewardResult.reason", DeprecationWarning, stacklevel=2)
        return self.reason


class Reward(Protocol):
    """Judges candidates.

    Attributes:
        kind: pointwise looks at each candidate alone, in batches of any size; groupwise compares, and each
            call gets the whole group of one prompt.
        needs: fields beside image and prompt, "references" or keys of the metadata; a candidate without them
            gets no score.
        low, high: the range of scores, infinite where there is no bound.
        concurrency: calls that may run at once; 1 where a model is not shared between threads.
        version: weights and settings in one word; scores of different versions are never compared.
    """

    kind: Kind
    needs: tuple[str, ...]
    low: float
    high: float
    concurrency: int

    @property
    def version(self) -> str:
        """What made the scores."""
        ...

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One result each, in order; RewardUnavailable where the call as a whole failed."""
        ...


class RewardUnavailable(OSError):
    """No valid answer: a dead service, a time-out, a wrong version."""


class CannotJudge(ValueError):
    """This candidate cannot be judged at all: a field is missing, or a picture has the wrong size."""


class EachAlone:
    """Base of rewards that judge one candidate at a time.

    A subclass writes `judge` and changes the attributes that differ; what `judge` refuses with CannotJudge
    becomes a result without a score.
    """

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    concurrency: int = 1
    version: str = "1"

    def judge(self, candidate: Candidate) -> RewardResult:
        """The result of one candidate that has every needed field."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it judges")

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One result each, in order."""
        return [self._result(candidate) for candidate in candidates]

    def _result(self, candidate: Candidate) -> RewardResult:
        missing = missing_fields(self.needs, candidate)
        if missing:
            return RewardResult(None, missing)
        try:
            return self.judge(candidate)
        except CannotJudge as error:
            return RewardResult(None, str(error))


def missing_fields(needs: Sequence[str], candidate: Candidate) -> str:
    """What a candidate lacks, in words; empty where nothing."""
    lacking = [
        name
        for name in needs
        if not (candidate.references if name == "references" else candidate.metadata.get(name))
    ]
    return f"the candidate has no {' and no '.join(lacking)}" if lacking else ""


__getattr__ = renamed(__name__, {"Verdict": "deepgen.rewards.reward.RewardResult"})
