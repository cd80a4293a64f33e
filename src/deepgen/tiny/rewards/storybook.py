"""Whether a picture of the storybook is what was asked for, read from its pixels and exact.

The right picture scores 1. Everything else scores 0 ("exact") or a part of what was asked for
("partial", deepgen/tiny/credit.py), which gives a group something to compare while right pictures are rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from deepgen.image_colors import to_srgb
from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult
from deepgen.tiny.claims import Claim, EditClaim, from_json
from deepgen.tiny.credit import credit, is_right
from deepgen.tiny.read import Reading, read
from deepgen.tiny.render import CANVAS
from deepgen.tiny.scene import PLACES


@dataclass(frozen=True, kw_only=True)
class StorybookRewardOptions:
    """The score of a wrong picture: 0, or the share of its parts that is right."""

    credit: Literal["exact", "partial"] = "exact"


class StorybookReward(EachAlone):
    """1 where everything stated holds and nothing is extra; of an edit, untouched cells included."""

    needs = ("storybook",)

    def __init__(self, options: StorybookRewardOptions) -> None:
        self.options = options
        self.version = f"storybook-1-{options.credit}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """The verdict on a 96x96 picture; its words tell what was found."""
        claim, reading = asked_and_read(candidate)
        is_partial = self.options.credit == "partial"
        score = credit(claim, reading) if is_partial else float(is_right(claim, reading))
        return RewardResult(score, in_words(reading))


def asked_and_read(candidate: Candidate) -> tuple[Claim | EditClaim, Reading]:
    """What was asked for and what the picture shows; CannotJudge for other worlds' prompts and sizes."""
    if candidate.image.size != (CANVAS, CANVAS):
        raise CannotJudge(f"pictures of this world are {CANVAS}x{CANVAS}, got {candidate.image.size}")
    claim = candidate.metadata["storybook"]
    if not isinstance(claim, dict):
        raise CannotJudge("the claim under 'storybook' in the metadata is not as claims.to_json writes it")
    try:
        return from_json(claim), _read(to_srgb(candidate.image).tobytes())
    except ValueError as error:
        raise CannotJudge(str(error)) from error


@lru_cache(maxsize=1024)  # several rewards look at the same picture, and reading takes 13 ms
def _read(pixels: bytes) -> Reading:
    return read(np.frombuffer(pixels, np.uint8).reshape(CANVAS, CANVAS, 3))


def in_words(reading: Reading) -> str:
    """What was found, for a log."""
    found = [f"{thing.size} {thing.style} {thing.noun} {PLACES[thing.cell]}" for thing in reading.things]
    found += [f"the word {reading.word.text} in row {reading.word.row}"] if reading.word else []
    found += [f"something unknown {PLACES[cell]}" for cell in reading.unknown_cells]
    return f"{', '.join(found) or 'nothing'} on {reading.ground or 'an unknown ground'}"


options, reward = StorybookRewardOptions, StorybookReward
