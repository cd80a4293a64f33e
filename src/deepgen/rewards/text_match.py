"""How well text that was read from a picture matches the text that was asked for; knows no OCR engine.

Targets are located one after the other, longest first, each in the part of the text no other has claimed. The
score is the share of their letters that is right, lowered when their order is wrong and when there is more
text than was asked for, so that neither repeating a word nor filling the picture with letters pays.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

# An opening and its closing mark. A straight or curly single quote may be an apostrophe, so it has to stand
# where a word begins and where one ends.
_PAIRS = (
    ('"', '"'),
    ("“", "”"),
    ("„", "“"),
    ("„", "”"),
    ("«", "»"),
    ("「", "」"),
    ("『", "』"),
    ("﹁", "﹂"),
    ("﹃", "﹄"),
    ("＂", "＂"),
    ("〝", "〞"),
)
_QUOTED = re.compile(
    "|".join(f"{opening}([^{opening}{closing}]*){closing}" for opening, closing in _PAIRS)
    + r"|(?<!\w)'(?=\S)([^']+?)(?<=\S)'(?!\w)|(?<!\w)‘(?=\S)([^‘]+?)(?<=\S)’(?!\w)"
)
_TAKEN = "\0"  # stands for text another target has claimed; equal to no letter


def quoted_spans(prompt: str) -> list[str]:
    """Every quoted text of a prompt in its order: straight, curly, low, angle and CJK quotes.

    Quotes inside quotes belong to the outer ones.
    """
    spans = (next(filter(None, match.groups()), "").strip() for match in _QUOTED.finditer(prompt))
    return [span for span in spans if span]


def normalize(text: str, *, is_case_sensitive: bool = False, keeps_punctuation: bool = False) -> str:
    """The letters that count: NFKC, without white space, by default without case and punctuation.

    Letters of every script stay, and so do signs such as "%", "+" and "€". Punctuation alone is kept.
    """
    text = unicodedata.normalize("NFKC", text)
    if not is_case_sensitive:
        text = unicodedata.normalize("NFKC", text.casefold())
    text = "".join(letter for letter in text if not letter.isspace() and unicodedata.category(letter) != "Cf")
    if keeps_punctuation:
        return text
    bare = "".join(
        letter for letter in text if not unicodedata.category(letter).startswith("P") or letter in "%&@#"
    )
    return bare or text


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions, each 1."""
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        current = [i]
        for j, b in enumerate(second, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def locate(target: str, text: str) -> tuple[int, int, int]:
    """Where a target is most nearly found in a text: (edit distance, start, end).

    Of equally good places the one whose length is nearest to the target's, then the first: a letter that was
    read wrongly belongs to its word.

    Sellers' algorithm: Levenshtein distance to the best substring, which may begin and end anywhere.
    """
    row = [(i, 0) for i in range(len(target) + 1)]  # distance, start, for the first i letters of the target
    best = (len(target), 0, 0)
    for end, letter in enumerate(text, 1):
        above = row
        row = [(0, end)]
        for i, wanted in enumerate(target, 1):
            row.append(
                min(
                    (above[i - 1][0] + (wanted != letter), above[i - 1][1]),
                    (above[i][0] + 1, above[i][1]),
                    (row[-1][0] + 1, row[-1][1]),
                )
            )
        best = min(best, (*row[-1], end), key=lambda b: (b[0], abs(b[2] - b[1] - len(target))))
    return best


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """What counts.

    Attributes:
        is_case_sensitive, keeps_punctuation: see `normalize`.
        order_weight: what a completely wrong order costs, as a share of the score.
        extra_weight: what as much text again as was asked for costs, as a share; more costs no more.
    """

    is_case_sensitive: bool = False
    keeps_punctuation: bool = False
    order_weight: float = 0.3
    extra_weight: float = 0.5

    def __post_init__(self) -> None:
        """Both weights are shares."""
        for name in ("order_weight", "extra_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TextMatch:
    """How a text matches its targets.

    Attributes:
        score: in [0, 1]; 1 exactly where `is_exact`, up to the weights.
        similarity: share of the targets' letters that is right, in [0, 1].
        order: share of the targets that stand in their order, in [0, 1].
        extra: letters that no target explains, as a share of all the targets' letters.
        is_exact: every target is there, letter by letter, in order, and nothing else.
    """

    score: float
    similarity: float
    order: float
    extra: float
    is_exact: bool


def match_text(targets: Sequence[str], lines: Sequence[str], config: MatchConfig | None = None) -> TextMatch:
    """How lines of text, in reading order, match the targets, in the order they were asked for.

    Raises:
        ValueError: there is no target, or nothing but white space.
    """
    config = config or MatchConfig()
    wanted = [_letters(target, config) for target in targets]
    wanted = [target for target in wanted if target]
    if not wanted:
        raise ValueError(f"there is no text to look for in {list(targets)!r}")
    text = "".join(_letters(line, config) for line in lines)
    num_letters = sum(map(len, wanted))
    num_right, starts = 0, dict[int, int]()
    for index in sorted(range(len(wanted)), key=lambda i: -len(wanted[i])):
        target = wanted[index]
        distance, start, end = locate(target, text)
        if distance >= len(target):
            continue
        num_right += len(target) - distance
        starts[index] = start
        text = text[:start] + _TAKEN * (end - start) + text[end:]
    places = [starts[index] for index in sorted(starts)]
    order = _longest_increasing(places) / len(places) if places else 0.0
    extra = sum(letter != _TAKEN for letter in text) / num_letters
    similarity = num_right / num_letters
    score = similarity * (1 - config.order_weight * (1 - order)) * (1 - config.extra_weight * min(1.0, extra))
    return TextMatch(
        score=score,
        similarity=similarity,
        order=order,
        extra=extra,
        is_exact=num_right == num_letters and order == 1 and not extra,
    )


def _letters(text: str, config: MatchConfig) -> str:
    return normalize(
        text.replace(_TAKEN, ""),
        is_case_sensitive=config.is_case_sensitive,
        keeps_punctuation=config.keeps_punctuation,
    )


def _longest_increasing(values: Sequence[int]) -> int:
    """How many values can be kept so that the rest rises."""
    tails: list[int] = []
    for value in values:
        place = bisect_left(tails, value)
        tails[place : place + 1] = [value]
    return len(tails)


@dataclass(frozen=True, kw_only=True)
class TextBox:
    """A line of text and where it stands, in pixels from the top left."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def reading_order(boxes: Sequence[TextBox]) -> list[str]:
    """The texts row by row from the top, each row from the left; boxes that overlap by half their height
    share a row.
    """
    rows: list[list[TextBox]] = []
    for box in sorted(boxes, key=lambda b: (b.top + b.bottom) / 2):
        for row in rows:
            overlap = min(box.bottom, row[0].bottom) - max(box.top, row[0].top)
            if overlap > 0.5 * min(box.bottom - box.top, row[0].bottom - row[0].top):
                row.append(box)
                break
        else:
            rows.append([box])
    return [box.text for row in rows for box in sorted(row, key=lambda b: b.left)]
