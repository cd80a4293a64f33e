"""What a reward is: candidates in, one verdict each out.

A candidate that could not be judged has no score. It is never worth zero, because a zero is an opinion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

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
class Verdict:
    """What one candidate is worth: a finite score, or None and the reason it has none.

    Attributes:
        score: within the reward's range; None where the candidate could not be judged.
        words: what a judge said, to show beside the picture; the reason where there is no score.
    """

    score: float | None
    words: str = ""

    def __post_init__(self) -> None:
        """A score that is not finite is a fault of the reward, and has to be named as one."""
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"a score must be finite, got {self.score}; a failure is None with its reason")


class Reward(Protocol):
    """Judges candidates.

    Attributes:
        kind: pointwise looks at each candidate alone, in batches of any size; groupwise compares, and each
            call gets the whole group of one prompt.
        needs: fields beside image and prompt, "references" or keys of the metadata; a candidate without them
            gets no score.
        low, high: the range of scores, infinite where there is no bound.
        version: weights and settings in one word; scores of different versions are never compared.
    """

    kind: Kind
    needs: tuple[str, ...]
    low: float
    high: float

    @property
    def version(self) -> str:
        """What made the scores."""
        ...

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """One verdict each, in order. Raises only where nothing can ever be judged."""
        ...
