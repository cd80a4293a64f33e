"""How much of what an edit should leave alone was left alone, in the flat world.

A picture that was not edited at all keeps everything, so this belongs beside a reward for the change.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult
from deepgen.rewards.scorers.shapes import asked_and_read, in_words
from deepgen.shapes.caption import ShapesClaim
from deepgen.shapes.score import keeping_share


@dataclass(frozen=True, kw_only=True)
class ShapesKeptOptions:
    """Nothing to set."""


class ShapesKept(EachAlone):
    """Share of an edit's untouched objects and background that is still there, less what is extra."""

    needs = ("shapes",)
    version = "shapes-kept-1"

    def __init__(self, options: ShapesKeptOptions) -> None:
        self.options = options

    def judge(self, candidate: Candidate) -> RewardResult:
        """The verdict on the 96x96 result of an edit."""
        asked, reading = asked_and_read(candidate)
        if isinstance(asked, ShapesClaim):
            raise CannotJudge("this row is no edit: there is nothing to keep")
        return RewardResult(keeping_share(asked, reading), in_words(reading))


options, reward = ShapesKeptOptions, ShapesKept
