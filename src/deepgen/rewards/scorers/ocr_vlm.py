"""OCR by a vision-language model: it reads what is in the picture, and the match is ours.

The expected text is not part of the judge's prompt, or it would read it into the picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepgen.rewards.http import Connection
from deepgen.rewards.ocr import targets_of, text_result
from deepgen.rewards.reward import Candidate, CannotJudge, Kind, RewardResult
from deepgen.rewards.rubric_judge import JudgeOptions, RubricJudge, calls_at_once
from deepgen.rewards.scorers.ocr import version_of
from deepgen.rewards.text_match import MatchConfig

RUBRIC = """Read all the text in this picture, letter by letter as it is drawn, in reading order.
Keep misspellings and broken letters as they are, write down nothing that is not drawn, and do not translate.
Answer with JSON only:
{"lines": ["first line", "second line"]}, with an empty list where there is no text."""


@dataclass(frozen=True, kw_only=True)
class OCRVLMOptions(JudgeOptions, MatchConfig):
    """Which judge, and what counts as right."""

    def __post_init__(self) -> None:
        """The checks of both."""
        JudgeOptions.__post_init__(self)
        MatchConfig.__post_init__(self)


class OCRVLM:
    """As `ocr`, with the text read by a vision-language model."""

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low, high = 0.0, 1.0

    def __init__(self, options: OCRVLMOptions, connection: Connection | None = None) -> None:
        self.options = options
        self.concurrency = calls_at_once(options)
        self._judge = RubricJudge(options, RUBRIC, connection, needs_prompt=False)

    @property
    def version(self) -> str:
        """The judge, its wording, and what counts."""
        return f"ocr-vlm-1-{version_of(self.options)}-{self._judge.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each; a prompt without text to look for is not asked about."""
        targets: list[list[str] | str] = []
        for candidate in candidates:
            try:
                targets.append(targets_of(candidate))
            except CannotJudge as error:
                targets.append(str(error))
        able = [c for c, wanted in zip(candidates, targets, strict=True) if isinstance(wanted, list)]
        said = iter(self._judge.ask_all([(c.image, self._judge.rubric) for c in able]))
        return [
            RewardResult(None, wanted) if isinstance(wanted, str) else self._verdict(wanted, next(said))
            for wanted in targets
        ]

    def _verdict(self, targets: list[str], said: str | None) -> RewardResult:
        if said is None:
            return RewardResult(None, "the judge could not be reached", 1, 0)
        lines = lines_in(said)
        if lines is None:
            return RewardResult(None, f"no list of lines in: {said}", 1, 0)
        verdict = text_result(targets, lines, self.options)
        return RewardResult(verdict.score, verdict.reason, 1, 1)


def lines_in(said: str) -> list[str] | None:
    """The lines of an answer; JSON may stand between other words or in a fence. None where there is none."""
    match = re.search(r"\{.*\}", said, flags=re.DOTALL)
    if match is None:
        return None
    try:
        lines = json.loads(match[0]).get("lines")
    except ValueError:
        return None
    is_list = isinstance(lines, list) and all(isinstance(line, str) for line in lines)
    return lines if is_list else None


options, reward = OCRVLMOptions, OCRVLM
