"""ImgEdit-Bench: lines of grades from 1 to 5 in a reply, whose names depend on the kind of edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import mean

KINDS = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")


def parse(reply: str) -> float | None:
    """Mean of the grades, rounded to 2 digits, or None without any.

    A line counts when it splits at ": " into two parts of which the second is all digits, whatever the first
    is.
    """
    grades = []
    for line in reply.splitlines():
        parts = line.strip().split(": ")
        if len(parts) == 2 and parts[1].isdecimal():
            grades.append(float(parts[1]))
    return round(mean(grades), 2) if grades else None


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means in [1, 5] of each kind, rounded to 2 digits, `overall`, their plain mean, and `items`, that of
    all items.

    Args:
        rows: `edit_type` and `score`.
    """
    kinds = [kind for kind in KINDS if any(row["edit_type"] == kind for row in rows)]
    table = {
        kind: round(mean([float(row["score"]) for row in rows if row["edit_type"] == kind]), 2)
        for kind in kinds
    }
    return {
        "overall": mean(list(table.values())),
        **table,
        "items": mean([float(row["score"]) for row in rows]),
    }
