"""UniGenBench: a judge's list of ones and zeros, one for each test point of a prompt."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepgen.eval.scoring import mean


def parse(reply: str, num_points: int) -> list[int] | None:
    """The score of each test point, 1 or 0, or None for a reply without both lists of that length.

    The first `analysis` and the first `score` tag count, each read as a Python literal; any score but 1 is 0.
    """
    lists = []
    for tag in ("analysis", "score"):
        match = re.search(rf"<{tag}>(.*?)</{tag}>", reply, flags=re.DOTALL)
        if match is None:
            return None
        try:
            value = ast.literal_eval(match[1].strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
        if not isinstance(value, list) or len(value) != num_points:
            return None
        lists.append(value)
    return [int(score == 1) for score in lists[1]]


def primary_of(point: str) -> str:
    """The primary dimension of a test point: what stands before its first hyphen."""
    return point.split("-")[0].strip()


def aggregate(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Accuracies in percent, pooled over all test points of all pictures.

    `overall` is the plain mean of the primary dimensions; `primary NAME` and `sub NAME` are those of each.

    Args:
        images: `testpoints` (names) and `scores` (1 or 0) of every picture whose reply could be read.
    """
    pools: dict[str, list[float]] = {}
    for image in images:
        for point, score in zip(image["testpoints"], image["scores"], strict=True):
            for name in (f"primary {primary_of(point)}", f"sub {point.strip()}"):
                pools.setdefault(name, []).append(float(score))
    table = {name: 100 * mean(values) for name, values in sorted(pools.items())}
    primary = [value for name, value in table.items() if name.startswith("primary ")]
    return {"overall": mean(primary), **table}
