"""UnifiedReward (Wang et al., 2025) on single pictures: a judge's alignment and style scores, 1 to 5 each.

Works with any judge that follows the wording; the model's own card may ask for another one, which goes into
`rubric_path`. An answer without both scores is no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepgen.rewards.http import Connection
from deepgen.rewards.reward import Candidate, Kind, RewardResult
from deepgen.rewards.rubric_judge import JudgeOptions, RubricJudge, calls_at_once

RUBRIC = """Look at the picture and grade how well it serves this request: "{prompt}"

Give two grades between 1 (very poor) and 5 (excellent), decimals allowed. The first is for alignment: does
the picture show what the request names, with the right number, looks and arrangement? The second is for
style: is it pleasant to look at, clean, and without broken details? Finish with exactly these two lines:
Alignment Score (1-5): <number>
Style Score (1-5): <number>"""


@dataclass(frozen=True, kw_only=True)
class UnifiedRewardOptions(JudgeOptions):
    """Which judge."""


class UnifiedReward:
    """Mean of a judge's alignment and style scores, 1 to 5."""

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low, high = 1.0, 5.0

    def __init__(self, options: UnifiedRewardOptions, connection: Connection | None = None) -> None:
        self.options = options
        self.concurrency = calls_at_once(options)
        self._judge = RubricJudge(options, RUBRIC, connection)

    @property
    def version(self) -> str:
        """The judge and its wording."""
        return f"unifiedreward-1-{self._judge.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each, from one question each; the words are what the judge said."""
        said = self._judge.ask_all([(c.image, self._judge.rubric_for(c.prompt)) for c in candidates])
        return [_verdict(text) for text in said]


def _verdict(said: str | None) -> RewardResult:
    if said is None:
        return RewardResult(None, "the judge could not be reached", 1, 0)
    scores = [score_named(name, said) for name in ("Alignment", "Style")]
    if None in scores:
        return RewardResult(None, f"no two scores from 1 to 5 in: {said}", 1, 0)
    return RewardResult(sum(score for score in scores if score is not None) / 2, said, 1, 1)


def score_named(name: str, said: str) -> float | None:
    """The last score of that name in a text, as in "Style Score (1-5): 4.5"; None where it is not 1 to 5."""
    pattern = rf"{name}\s+Score[\s*]*(?:\(\s*1\s*[-–]\s*5\s*\))?[\s:*]*(\d+(?:\.\d+)?)"
    found = re.findall(pattern, said, flags=re.IGNORECASE)
    return float(found[-1]) if found and 1 <= float(found[-1]) <= 5 else None


options, reward = UnifiedRewardOptions, UnifiedReward
