"""Whether an edit of text did what it should: the new text can be read and the old one cannot.

A row has `targets`, the text that should be there, and may have `absent`, the text that should be gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.interfaces import TextReader
from deepgen.rewards.ocr import RapidReader, targets_of, text_result, texts_of
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult
from deepgen.rewards.scorers.ocr import OCROptions, version_of
from deepgen.rewards.text_match import locate, normalize


@dataclass(frozen=True, kw_only=True)
class TextEditOptions(OCROptions):
    """As for `ocr`; `absent_threshold` is the share of an old text's letters from which it counts as there.

    Text that was not asked for costs nothing by default: an edit keeps the rest of its source.
    """

    extra_weight: float = 0.0
    absent_threshold: float = 0.8


class TextEdit(EachAlone):
    """How well the new text can be read, times the share of the old texts that are gone."""

    needs = ("references", "targets")

    def __init__(self, options: TextEditOptions, reader: TextReader | None = None) -> None:
        self.options = options
        self._reader = reader or RapidReader(options.min_confidence)
        kind = f"{version_of(options)}-absent{options.absent_threshold:g}"
        self.version = f"text-edit-1-{kind}-{self._reader.version}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """Reads the result; old text that is part of the new one may stay there."""
        targets, lines = targets_of(candidate), self._reader(candidate.image)
        there = text_result(targets, lines, self.options)
        absent = candidate.metadata.get("absent")
        if absent is None:
            return there
        old = texts_of(absent, "absent")
        left = [text for text in old if self._is_there(text, lines) and not self._is_there(text, targets)]
        words = f"{there.reason}; still there: {left}" if left else there.reason
        return RewardResult((there.score or 0.0) * (1 - len(left) / len(old)), words)

    def _is_there(self, text: str, lines: list[str]) -> bool:
        wanted, *found = (
            normalize(t, is_case_sensitive=self.options.is_case_sensitive) for t in (text, *lines)
        )
        distance, _, _ = locate(wanted, "".join(found))
        return 1 - distance / max(1, len(wanted)) >= self.options.absent_threshold


options, reward = TextEditOptions, TextEdit
