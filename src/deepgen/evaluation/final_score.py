"""The reply form that RISEBench and UniREditBench share: words, then a final score."""

from __future__ import annotations

import re

_FINAL = re.compile(r"\*{0,2}Final Score\*{0,2}:?([\d*,\s]*)", flags=re.IGNORECASE)


def parse(reply: str) -> list[int] | None:
    """Every whole number after the first "Final Score" that is followed by any; None where none is."""
    for match in _FINAL.finditer(reply):
        numbers = [int(number) for number in re.findall(r"\d+", match[1])]
        if numbers:
            return numbers
    return None
