"""Whether a picture of the flat world is what was asked for, read from its pixels and exact.

The right picture scores 1. Everything else scores 0 ("exact") or a part of what was asked for
("partial"), which gives a group something to compare while right pictures are rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepgen.moved import renamed
from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult
from deepgen.shapes.caption import ShapesClaim, ShapesEdit
from deepgen.shapes.prompts import asked_of
from deepgen.shapes.read import ShapesReading, read
from deepgen.shapes.scene import CANVAS
from deepgen.shapes.score import change_share, claim_credit, edit_credit, is_right, keeping_share


@dataclass(frozen=True, kw_only=True)
class ShapesRewardOptions:
    """The score of a wrong picture: 0, or the share that is right."""

    credit: Literal["exact", "partial"] = "exact"


class ShapesReward(EachAlone):
    """1 where every stated property holds and nothing is extra; of an edit, where the scene is the target."""

    needs = ("shapes",)

    def __init__(self, options: ShapesRewardOptions) -> None:
        self.options = options
        self.version = f"shapes-1-{options.credit}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """The verdict on a 96x96 picture; its words tell what was found."""
        asked, reading = asked_and_read(candidate)
        claim = asked if isinstance(asked, ShapesClaim) else asked.claim
        right = is_right(claim, reading)
        if self.options.credit == "exact" or right:
            return RewardResult(float(right), in_words(reading))
        if isinstance(asked, ShapesClaim):
            return RewardResult(claim_credit(asked, reading), in_words(reading))
        shares = f"changed {change_share(asked, reading):.2f}, kept {keeping_share(asked, reading):.2f}"
        return RewardResult(edit_credit(asked, reading), f"{shares}; {in_words(reading)}")


def asked_and_read(candidate: Candidate) -> tuple[ShapesClaim | ShapesEdit, ShapesReading]:
    """What was asked for and what the picture shows; CannotJudge for other worlds' prompts and sizes."""
    if candidate.image.size != (CANVAS, CANVAS):
        raise CannotJudge(f"pictures of this world are {CANVAS}x{CANVAS}, got {candidate.image.size}")
    try:
        return asked_of(candidate.metadata), read(candidate.image)
    except ValueError as error:
        raise CannotJudge(str(error)) from error


def in_words(reading: ShapesReading) -> str:
    """What was found, for a log."""
    objects = [f"{o.size} {o.color} {o.shape} in cell {o.cell}" for o in reading.objects]
    objects += [f"something in cell {cell}" for cell in reading.unreadable_cells]
    return f"{', '.join(objects) or 'nothing'} on {reading.background or 'an unknown background'}"


options, reward = ShapesRewardOptions, ShapesReward


__getattr__ = renamed(
    __name__,
    {
        "Shapes": "deepgen.rewards.scorers.shapes.ShapesReward",
        "ShapesOptions": "deepgen.rewards.scorers.shapes.ShapesRewardOptions",
    },
)
