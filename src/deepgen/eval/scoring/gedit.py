"""GEdit-Bench: two questions with two numbers of 0 to 10 each, after VIEScore (Ku et al., 2024)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import mean

TASKS = (
    *("background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change"),
    *("subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer"),
)
_DELIMITER = "||V^=^V||"


def parse(reply: str) -> list[float] | None:
    """The scores of a reply, or None where there are none.

    A reply is JSON with `score` (a list or a number), between two delimiters or from the first brace to the
    last; without braces, a bare list of two whole numbers or a bare whole number from 0 to 10. Where the
    official parser would then throw dice, a reply has no score here.
    """
    parts = reply.split(_DELIMITER)
    if len(parts) == 3:
        text = parts[1]
    elif "{" in reply and "}" in reply:
        text = reply[reply.index("{") : reply.rindex("}") + 1]
    else:
        return _bare(reply.strip())
    try:
        score = json.loads(text.replace("\n", "").replace("\r", "").strip())["score"]
    except (ValueError, KeyError, TypeError):
        return None
    scores = score if isinstance(score, list) else [score]
    if not scores or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in scores):
        return None
    return [float(x) for x in scores] if all(0 <= x <= 10 for x in scores) else None


def _bare(text: str) -> list[float] | None:
    if re.fullmatch(r"\[\s*\d+\s*,\s*\d+\s*\]", text) or re.fullmatch(r"\d+", text):
        numbers = [float(number) for number in re.findall(r"\d+", text)]
        return numbers if all(number <= 10 for number in numbers) else None
    return None


def overall(semantics: Sequence[float], quality: Sequence[float]) -> dict[str, float]:
    """`SC`, `PQ` (the least of each list) and `O`, the root of their product, in [0, 10]."""
    sc, pq = min(semantics), min(quality)
    return {"SC": sc, "PQ": pq, "O": math.sqrt(sc * pq)}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means in [0, 10]: `G_SC`, `G_PQ`, `G_O`, plain means of the task types, and those of each type.

    Args:
        rows: `task_type`, `SC`, `PQ`, `O` and `intersection` of one language. Where some rows are of the
            intersection, the three numbers over those are given too.
    """
    table: dict[str, float] = {}
    for suffix, chosen in (("", rows), (" intersection", [row for row in rows if row.get("intersection")])):
        tasks = [task for task in TASKS if any(row["task_type"] == task for row in chosen)]
        for key in ("SC", "PQ", "O"):
            means = {
                task: mean([float(row[key]) for row in chosen if row["task_type"] == task]) for task in tasks
            }
            if means:
                table[f"G_{key}{suffix}"] = mean(list(means.values()))
            if not suffix:
                table.update({f"{key} {task}": value for task, value in means.items()})
    return table
