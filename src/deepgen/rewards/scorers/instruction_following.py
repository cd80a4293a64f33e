"""Whether an edit followed its instruction: a judge sees the source, the result and the instruction.

What was left alone is not asked here; `preservation` measures it from pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from deepgen.rewards.http import Connection
from deepgen.rewards.judge import answer_in, number_in
from deepgen.rewards.reward import Candidate, Kind, RewardResult, missing_fields
from deepgen.rewards.rubric_judge import JudgeOptions, RubricJudge, calls_at_once

RUBRIC = """The last picture was made from the ones before it by carrying out this instruction: "{prompt}"

How completely was the instruction carried out? Compare the pictures and look for each change the instruction
asks for. 0 means that nothing was done or something else was; 5 means about half, or all of it badly; 10
means everything, and exactly as told. Give a whole number as <answer>number</answer> after a short reason."""


@dataclass(frozen=True, kw_only=True)
class InstructionFollowingOptions(JudgeOptions):
    """Which judge."""


class InstructionFollowing:
    """A judge's grade for how completely an instruction was carried out, of 10, scaled to 0 to 1."""

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ("references",)
    low, high = 0.0, 1.0

    def __init__(self, options: InstructionFollowingOptions, connection: Connection | None = None) -> None:
        self.options = options
        self.concurrency = calls_at_once(options)
        self._judge = RubricJudge(options, RUBRIC, connection)

    @property
    def version(self) -> str:
        """The judge and its wording."""
        return f"instruction-following-1-{self._judge.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each, from one question each; the words are what the judge said."""
        lacking = [missing_fields(self.needs, candidate) for candidate in candidates]
        able = [c for c, reason in zip(candidates, lacking, strict=True) if not reason]
        said = iter(self._judge.ask_all([self._question(candidate) for candidate in able]))
        return [RewardResult(None, reason) if reason else _verdict(next(said)) for reason in lacking]

    def _question(self, candidate: Candidate) -> list[str | Image.Image]:
        return [*candidate.references, candidate.image, self._judge.rubric_for(candidate.prompt)]


def _verdict(said: str | None) -> RewardResult:
    if said is None:
        return RewardResult(None, "the judge could not be reached", 1, 0)
    answer = answer_in(said)
    grade = None if answer is None else number_in(answer, 0, 10)
    if grade is None:
        return RewardResult(None, f"no grade from 0 to 10 in: {said}", 1, 0)
    return RewardResult(grade / 10, said, 1, 1)


options, reward = InstructionFollowingOptions, InstructionFollowing
