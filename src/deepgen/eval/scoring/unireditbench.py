"""UniREditBench: three grades of 1 to 5 of every edit, on real scenes and on games."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import mean


def score(consistency: float, reasoning: float, quality: float) -> float:
    """0.3 consistency, 0.5 reasoning and 0.2 quality, in [1, 5]."""
    return 0.3 * consistency + 0.5 * reasoning + 0.2 * quality


def is_right(consistency: float, reasoning: float, quality: float) -> bool:
    """Full marks in all three."""
    return consistency == reasoning == quality == 5


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Percentages: `overall`, 25 (mean - 1) of all scored samples, `accuracy`, and both by `name` and
    `world`.

    Args:
        rows: `name` (the sub-dimension), `consistency`, `reasoning`, `quality` and perhaps `world` (real or
            game).
    """
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [("", rows)]
    for key in ("world", "name"):
        for value in sorted({str(row[key]) for row in rows if row.get(key)}):
            groups.append((f" {value}", [row for row in rows if row.get(key) == value]))
    table: dict[str, float] = {}
    for suffix, chosen in groups:
        grades = [(row["consistency"], row["reasoning"], row["quality"]) for row in chosen]
        table[f"overall{suffix}"] = 25 * (mean([score(*each) for each in grades]) - 1)
        table[f"accuracy{suffix}"] = 100 * mean([float(is_right(*each)) for each in grades])
    return table
