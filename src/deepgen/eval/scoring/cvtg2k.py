"""CVTG-2K: how many of the quoted words of a prompt can be read in its picture."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import mean
from deepgen.rewards.text_match import edit_distance


def target_words(prompt: str) -> list[str]:
    """Words between straight single quotes, in small letters. Apostrophes open and close quotes too, as
    officially.
    """
    return [word for span in re.findall(r"'(.*?)'", prompt) for word in span.lower().split()]


def read_words(lines: Sequence[str]) -> list[str]:
    """Words of the lines an OCR engine found, in small letters; one empty word where there is none."""
    return [word for line in lines for word in line.lower().split()] or [""]


def match(targets: Sequence[str], found: Sequence[str] | None) -> dict[str, float]:
    """Right words and likeness of one picture.

    Args:
        targets: words asked for.
        found: words read; None where the engine failed, which counts every word as wrong.

    Returns:
        `words`, `right` (targets that occur among the words read, which are not used up) and `likeness`, the
        sum over targets of 1 - distance / longest to the word that difflib holds for the closest.
    """
    right, likeness = 0, 0.0
    for word in targets if found is not None else ():
        assert found is not None
        right += word in found
        closest = difflib.get_close_matches(word, found, n=1, cutoff=0)
        if closest:
            longest = max(len(word), len(closest[0]))
            likeness += 1 - edit_distance(word, closest[0]) / (longest + 1e-5)
    return {"words": len(targets), "right": right, "likeness": likeness}


def clip_score(cosine: float) -> float:
    """2.5 times the cosine of a picture and `A photo depicts` with its prompt, at least 0."""
    return 2.5 * max(cosine, 0.0)


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Word accuracy and NED over all words, and CLIPScore over pictures where it was measured, all in [0,
    2.5].

    Args:
        rows: `area` (number of texts, 2 to 5), `words`, `right`, `likeness` and perhaps `clip_score`.

    Returns:
        `word_accuracy`, `ned`, `clip_score` of all, and with ` area N` appended of each area.
    """
    table: dict[str, float] = {}
    areas = sorted({str(row["area"]) for row in rows})
    for area in (None, *areas):
        chosen = [row for row in rows if area is None or str(row["area"]) == area]
        suffix = "" if area is None else f" area {area}"
        num_words = sum(row["words"] for row in chosen)
        if num_words:
            table[f"word_accuracy{suffix}"] = sum(row["right"] for row in chosen) / num_words
            table[f"ned{suffix}"] = sum(row["likeness"] for row in chosen) / num_words
        measured = [float(row["clip_score"]) for row in chosen if row.get("clip_score") is not None]
        if measured:
            table[f"clip_score{suffix}"] = mean(measured)
    return table
