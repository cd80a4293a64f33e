"""RISEBench: three grades of 1 to 5, one number, and the share of samples with full marks.

The rule for samples that need not stay consistent changed on 2026-04-13. Before, they could never be right;
that is the rule the published numbers of DeepGen were made with. Both accuracies are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import Protocol, mean

CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")


def score(
    consistency: float | None, reasoning: float, quality: float | None, *, is_logical: bool = False
) -> float:
    """One number in [1, 5]; consistency is None where it is not asked for, quality of logical samples too.

    0.3, 0.5 and 0.2 of consistency, reasoning and quality; 0.8 and 0.2 without consistency; logical 0.3 and
    0.7. Without any reasoning it is halved, at least 1.
    """
    if is_logical:
        assert consistency is not None
        value = 0.3 * consistency + 0.7 * reasoning
    else:
        assert quality is not None
        value = (
            0.8 * reasoning + 0.2 * quality
            if consistency is None
            else 0.3 * consistency + 0.5 * reasoning + 0.2 * quality
        )
    return max(value / 2, 1.0) if reasoning == 1 else value


def is_right(row: Mapping[str, Any], *, rule: str = "new") -> bool:
    """Full marks in every grade asked for; `rule` is "old" or "new" (see the file's head). A failed row is
    wrong.
    """
    if row.get("reasoning") is None:
        return False
    if row.get("consistency") is None and rule == "old":
        return False
    keys = ("consistency", "reasoning") if _is_logical(row) else ("consistency", "reasoning", "quality")
    return all(row.get(key) is None or row[key] == 5 for key in keys)


def _is_logical(row: Mapping[str, Any]) -> bool:
    return row["category"] == "logical_reasoning"


def aggregate(rows: Sequence[Mapping[str, Any]], protocol: Protocol = "fixed") -> dict[str, float]:
    """Percentages of all samples and of each category: `accuracy` (old rule), `accuracy_new` and `score`.

    Args:
        rows: `category`, and of samples that did not fail `consistency` (None: not asked for), `reasoning`
            and `quality` from 1 to 5; the 0 and 1 of logical samples are given as 1 and 5. May hold
            `subtask`.
        protocol: "official" leaves consistency out of every score as soon as one sample has none.
    """
    has_free = any(
        row.get("reasoning") is not None and row.get("consistency") is None
        for row in rows
        if not _is_logical(row)
    )
    table: dict[str, float] = {}
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [("", rows)]
    for category in CATEGORIES:
        groups.append((f" {category}", [row for row in rows if row["category"] == category]))
    for subtask in sorted({str(row["subtask"]) for row in rows if row.get("subtask")}):
        groups.append((f" subtask {subtask}", [row for row in rows if row.get("subtask") == subtask]))
    for suffix, chosen in groups:
        if not chosen:
            continue
        table[f"accuracy{suffix}"] = 100 * mean([float(is_right(row, rule="old")) for row in chosen])
        table[f"accuracy_new{suffix}"] = 100 * mean([float(is_right(row)) for row in chosen])
        scores = []
        for row in chosen:
            if row.get("reasoning") is None:
                continue
            drops = protocol == "official" and has_free and not _is_logical(row)
            consistency = None if drops else row.get("consistency")
            scores.append(
                score(consistency, row["reasoning"], row.get("quality"), is_logical=_is_logical(row))
            )
        if scores:
            table[f"score{suffix}"] = 25 * (mean(scores) - 1)
    return table
