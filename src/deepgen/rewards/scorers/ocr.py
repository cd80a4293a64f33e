"""Whether the text a prompt asks for can be read in the picture.

What to look for comes from `targets` in the prompt's row, or else from the quotes in the prompt. A prompt
with neither gets no score.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.interfaces import TextReader
from deepgen.rewards.ocr import RapidReader, targets_of, text_result
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult
from deepgen.rewards.text_match import MatchConfig


@dataclass(frozen=True, kw_only=True)
class OCROptions(MatchConfig):
    """What counts as right, and how sure the engine has to be of a line, in [0, 1]."""

    min_confidence: float = 0.5


class OCR(EachAlone):
    """Share of the asked-for letters that can be read, less wrong order and text that was not asked for."""

    def __init__(self, options: OCROptions, reader: TextReader | None = None) -> None:
        self.options = options
        self._reader = reader or RapidReader(options.min_confidence)
        self.version = f"ocr-1-{version_of(options)}-{self._reader.version}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """Reads the picture; its words say "exact" where every letter is right."""
        targets = targets_of(candidate)
        return text_result(targets, self._reader(candidate.image), self.options)


def version_of(config: MatchConfig) -> str:
    """What counts, in one word."""
    case = "case" if config.is_case_sensitive else "nocase"
    marks = "punctuation" if config.keeps_punctuation else "letters"
    return f"{case}-{marks}-order{config.order_weight:g}-extra{config.extra_weight:g}"


options, reward = OCROptions, OCR
