"""The interface of a reward: candidates in, one result each out.

A candidate that could not be judged has no score. It is never worth zero, because a zero is an opinion.
"""

from __future__ import annotations

import logging
import math
import numbers
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from deepgen.moved import renamed
from deepgen.user_files import UserFileError, described, line_of

Kind = Literal["pointwise", "groupwise"]

logger = logging.getLogger(__name__)


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
        if self.score is None:
            return
        if not isinstance(self.score, numbers.Real) and getattr(self.score, "ndim", None) != 0:
            raise TypeError(f"a score must be a number, got {type(self.score).__name__}")
        if not math.isfinite(self.score):
            raise ValueError(f"a score must be finite, got {self.score}; a failure is None with its reason")
        object.__setattr__(self, "score", float(self.score))  # of NumPy's or PyTorch's number too

    @property
    def words(self) -> str:
        """The former name of `reason`, for one release."""
        warnings.warn("RewardResult.words is now RewardResult.reason", DeprecationWarning, stacklevel=2)
        return self.reason


class Reward(Protocol):
    """Judges candidates.

    A reward may also have a `precision`: scores that differ by no more are equal, such as 0.004 for a model
    that computes in 16 bits. Without it that is the precision of float32.

    Attributes:
        kind: pointwise looks at each candidate alone, in batches of any size; groupwise compares, and each
            call gets the whole group of one prompt.
        needs: fields beside image and prompt, "references" or keys of the metadata; a candidate without them
            gets no score.
        low, high: the range of scores, infinite where there is no bound. A run that meets a score outside is
            stopped.
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


class ScoreOutOfRange(ValueError):
    """A reward does not keep to the range it declares, so that one of the two is wrong."""


class EachAlone:
    """Base of rewards that judge one candidate at a time.

    A subclass writes `judge` and changes the attributes that differ. What `judge` refuses with CannotJudge
    becomes a result without a score, and so does what it fails at, with the error as the reason; an OSError,
    of a service or a file that all candidates need, is one of the whole call.
    """

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    concurrency: int = 1
    version: str = "1"
    _is_reported = False  # an error of `judge`, with its traceback

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
        except OSError:
            raise
        except Exception as error:  # any error of one candidate: its neighbours are judged all the same
            if not self._is_reported:
                # In a file of the user's own, which the reason names.
                is_known = isinstance(error, UserFileError) or line_of(error) is not None
                said = f"{type(self).__name__} fails at a candidate: {described(error)}"
                logger.warning("%s", said, exc_info=None if is_known else error)
                self._is_reported = True
            return RewardResult(None, described(error))


def check_declaration(name: str, reward: Reward) -> None:
    """ValueError where what a reward declares of its scores cannot be kept by any."""
    low, high = reward.low, reward.high
    if not low < high:  # NaN too
        raise ValueError(
            f"reward {name} declares the range {low} to {high}, in which scores cannot differ; set low below "
            "high"
        )
    if not 0 <= precision_of(reward) < math.inf:
        raise ValueError(f"reward {name} declares the precision {precision_of(reward)}; it is 0 or more")


def precision_of(reward: Reward) -> float:
    """Scores of a reward that differ by no more are equal; 0 where it declares nothing."""
    return float(getattr(reward, "precision", 0.0))


def ask(reward: Reward, candidates: Sequence[Candidate]) -> list[RewardResult]:
    """A reward's results, one for each candidate.

    Raises:
        RewardUnavailable: they are not as many, or something else than results.
    """
    results = list(reward(candidates))
    if len(results) != len(candidates):
        raise RewardUnavailable(f"{len(results)} verdicts came back for {len(candidates)} candidates")
    wrong = [result for result in results if not isinstance(result, RewardResult)]
    if wrong:
        raise RewardUnavailable(f"a verdict is a RewardResult, got {type(wrong[0]).__name__}")
    return results


def is_in_range(reward: Reward, score: float | None) -> bool:
    """Whether a score keeps to what its reward declares, but for rounding; None does."""
    bounds = [abs(bound) for bound in (reward.low, reward.high) if math.isfinite(bound)]
    slack = 1e-4 * max(1.0, *bounds) if bounds else 0.0
    return score is None or reward.low - slack <= score <= reward.high + slack


def check_range(name: str, reward: Reward, scores: Sequence[float | None]) -> None:
    """ScoreOutOfRange where some of a reward's scores are outside what it declares.

    Left out, they would leave the mean of the others, which rises where most are thrown away.
    """
    given = [score for score in scores if score is not None]
    outside = [score for score in given if not is_in_range(reward, score)]
    if outside:
        raise ScoreOutOfRange(
            f"reward {name}: {len(outside)} of its {len(given)} scores are outside the range it declares, "
            f"{reward.low:g} to {reward.high:g}; the first is {outside[0]:.6g}; change what it gives, or its "
            "low and high"
        )


def missing_fields(needs: Sequence[str], candidate: Candidate) -> str:
    """What a candidate lacks, in words; empty where nothing."""
    lacking = [
        name
        for name in needs
        if not (candidate.references if name == "references" else candidate.metadata.get(name))
    ]
    return f"the candidate has no {' and no '.join(lacking)}" if lacking else ""


__getattr__ = renamed(__name__, {"Verdict": "deepgen.rewards.reward.RewardResult"})
