"""T2I-CoReBench: yes-or-no questions on composition (C) and reasoning (R)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import Protocol, mean

COMPOSITION = ("C-MI", "C-MA", "C-MR", "C-TR")
REASONING = ("R-LR", "R-BR", "R-HR", "R-PR", "R-GR", "R-AR", "R-CR", "R-RR")


def parse(reply: str, protocol: Protocol = "fixed") -> int | None:
    """1 for yes, else 0 for no, else None.

    The official path for open judges does not lower the case, so "Yes" is no answer there; the one for Gemini
    does, as does "fixed". What a judge thinks aloud before `</think>` and a blank line is left out.
    """
    if "</think>" in reply:
        reply = reply.rsplit("</think>", 1)[1]
    if protocol == "fixed":
        reply = reply.lower()
    if re.search(r"\byes\b", reply):
        return 1
    return 0 if re.search(r"\bno\b", reply) else None


def image_score(answers: Sequence[int | None]) -> float | None:
    """Share of yes among the graded questions; None where none is graded."""
    graded = [float(answer) for answer in answers if answer is not None]
    return mean(graded) if graded else None


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Scores in percent: each dimension is the mean over its pictures.

    `composition`, `reasoning` and `overall` are plain means of 4, 8 and 12 dimensions, where all are there.

    Args:
        rows: `task` (such as C-MI) and `score` in [0, 1] of every picture.
    """
    pools: dict[str, list[float]] = {}
    for row in rows:
        pools.setdefault(row["task"], []).append(float(row["score"]))
    table = {task: 100 * mean(pools[task]) for task in (*COMPOSITION, *REASONING) if task in pools}
    means = {
        "overall": (*COMPOSITION, *REASONING),
        "composition": COMPOSITION,
        "reasoning": REASONING,
    }
    whole = {
        name: mean([table[task] for task in tasks])
        for name, tasks in means.items()
        if all(task in table for task in tasks)
    }
    return {**whole, **table}
