"""Whether the objects in a picture are those a GenEval row asks for (Ghosh et al., 2023); knows no detector.

A row has `include`, a list of {"class", "count", and perhaps "color" and "position": [relation, index]}, and
perhaps `exclude`, a list of {"class", "count"}: so many of them are too many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepgen.rewards.reward import CannotJudge

RELATIONS = ("left of", "right of", "above", "below")
_MOST_OVERLAP = 0.1  # share of the two boxes' sizes within which centres count as level


@dataclass(frozen=True, kw_only=True)
class Detection:
    """An object: its class, how sure the detector is, its box in pixels, its color where that was asked."""

    name: str
    confidence: float
    box: tuple[float, float, float, float]  # left, top, right, bottom
    color: str | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectScore:
    """How right the objects are.

    Attributes:
        credit: mean of the parts that were asked for, in [0, 1].
        is_correct: GenEval's own verdict: at least as many as asked for, and none too many by `exclude`.
        words: what was found.
    """

    credit: float
    is_correct: bool
    words: str


def score_objects(metadata: Mapping[str, Any], found: Sequence[Detection]) -> ObjectScore:
    """Partial credit and GenEval's verdict for a row and what was detected.

    Each class asked for is a part, worth 1 - |wanted - found| / wanted; a color is one, in the same way; a
    position is one, right or wrong. Where the count is wrong, color and position are worth nothing, so that
    drawing one of three right does not outweigh the other two. A class that must not be there is a part.

    Raises:
        CannotJudge: the row is no GenEval row.
    """
    include, exclude = _entries(metadata, "include"), _entries(metadata, "exclude")
    if not include:
        raise CannotJudge("the row asks for no object")
    parts: list[float] = []
    correct = True
    matched: list[list[Detection]] = []
    for entry in include:
        name, wanted = entry["class"], int(entry.get("count", 1))
        items = [item for item in found if item.name == name]
        parts.append(max(0.0, 1 - abs(wanted - len(items)) / wanted))
        correct &= len(items) >= wanted
        has_count = len(items) == wanted
        if (color := entry.get("color")) is not None:
            colored = [item for item in items if item.color == color]
            parts.append(max(0.0, 1 - abs(wanted - len(colored)) / wanted) if has_count else 0.0)
            correct &= len(colored) >= wanted
            items = colored
        if (position := entry.get("position")) is not None:
            relation, other = _position(position, len(matched))
            is_placed = bool(items) and bool(matched[other])
            is_placed &= all(relation in relations(a, b) for a in items[:wanted] for b in matched[other])
            parts.append(float(is_placed and has_count))
            correct &= is_placed
        matched.append(items[:wanted])
    included = {entry["class"] for entry in include}
    for entry in exclude:
        num_found = sum(item.name == entry["class"] for item in found)
        correct &= num_found < int(entry.get("count", 1))
        if entry["class"] not in included:
            parts.append(float(num_found < int(entry.get("count", 1))))
    names = ", ".join(f"{item.color + ' ' if item.color else ''}{item.name}" for item in found)
    return ObjectScore(credit=sum(parts) / len(parts), is_correct=bool(correct), words=names or "nothing")


def relations(first: Detection, second: Detection) -> set[str]:
    """Where the first object lies from the second; nowhere in particular where the centres are too near."""
    offsets = []
    for axis in (0, 1):
        a, b = ((item.box[axis], item.box[axis + 2]) for item in (first, second))
        offset = (a[0] + a[1] - b[0] - b[1]) / 2
        slack = _MOST_OVERLAP * (a[1] - a[0] + b[1] - b[0])
        offsets.append(math.copysign(max(abs(offset) - slack, 0.0), offset))
    length = math.hypot(*offsets)
    if not length:
        return set()
    x, y = (offset / length for offset in offsets)
    holds = (x < -0.5, x > 0.5, y < -0.5, y > 0.5)
    return {name for name, is_so in zip(RELATIONS, holds, strict=True) if is_so}


def _entries(metadata: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = metadata.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "class" in e for e in entries):
        raise CannotJudge(f"{key} is a list of objects with a class, got {entries!r}")
    if any(int(entry.get("count", 1)) < 1 for entry in entries):
        raise CannotJudge(f"counts are at least 1, got {entries!r}")
    return entries


def _position(position: Any, num_before: int) -> tuple[str, int]:
    if not isinstance(position, list | tuple) or len(position) != 2 or position[0] not in RELATIONS:
        raise CannotJudge(f"a position is [{' or '.join(RELATIONS)}, index], got {position!r}")
    if not isinstance(position[1], int) or not 0 <= position[1] < num_before:
        raise CannotJudge(f"a position refers to an object named before it, got {position!r}")
    return position[0], position[1]
