"""How much of what an edit should leave alone was left alone, in the storybook's world.

A picture that was not edited at all keeps everything, so this belongs beside a reward for the change.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult
from deepgen.tiny.claims import Claim
from deepgen.tiny.credit import kept_share
from deepgen.tiny.rewards.storybook import asked_and_read, in_words


@dataclass(frozen=True, kw_only=True)
class StorybookKeptOptions:
    """Nothing to set."""


class StorybookKept(EachAlone):
    """Share of an edit's untouched things, ground and word that is as it was, less what is extra there."""

    needs = ("storybook",)
    version = "storybook-kept-1"

    def __init__(self, options: StorybookKeptOptions) -> None:
        self.options = options

    def judge(self, candidate: Candidate) -> RewardResult:
        """The verdict on the 96x96 result of an edit."""
        claim, reading = asked_and_read(candidate)
        if isinstance(claim, Claim):
            raise CannotJudge("this row is no edit: there is nothing to keep")
        return RewardResult(kept_share(claim, reading), in_words(reading))


options, reward = StorybookKeptOptions, StorybookKept
