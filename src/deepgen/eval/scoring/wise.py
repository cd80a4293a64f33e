"""WISE (Niu et al., 2025) in both generations: three grades of 0 to 2 (legacy), or one bit (verified)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from deepgen.eval.scoring import mean

Generation = Literal["legacy", "verified"]

GRADES = ("consistency", "realism", "aesthetic quality")
WEIGHTS: dict[Generation, dict[str, float]] = {
    "legacy": {
        "culture": 0.4,
        "time": 0.167,
        "space": 0.133,
        "biology": 0.1,
        "physics": 0.1,
        "chemistry": 0.1,
    },
    "verified": {"culture": 0.4, **dict.fromkeys(("time", "space", "biology", "physics", "chemistry"), 0.12)},
}
_FIRST_IDS: dict[Generation, tuple[int, ...]] = {
    "legacy": (1, 401, 568, 701, 801, 901),
    "verified": (1, 401, 521, 641, 761, 881),
}
NUM_PROMPTS = 1000


def category_of(prompt_id: int, generation: Generation) -> str:
    """The category a prompt counts for, by its number from 1 to 1000."""
    if not 1 <= prompt_id <= NUM_PROMPTS:
        raise ValueError(f"prompt_id is from 1 to {NUM_PROMPTS}, got {prompt_id}")
    index = sum(prompt_id >= first for first in _FIRST_IDS[generation]) - 1
    return tuple(WEIGHTS[generation])[index]


def parse_legacy(reply: str) -> list[int] | None:
    """[consistency, realism, aesthetic quality], or None unless all three are there.

    The name may be bold, the last value given to a name counts; where no name occurs, three lines that are
    bare grades are taken in their order.
    """
    found: dict[str, int] = {}
    for name in GRADES:
        values = re.findall(rf"\*{{0,2}}{name}\*{{0,2}}\s*:\s*(\d)", reply, flags=re.IGNORECASE)
        if values:
            found[name] = int(values[-1])
    if not found:
        bare = [int(line) for line in map(str.strip, reply.splitlines()) if re.fullmatch("[0-2]", line)]
        return bare if len(bare) == len(GRADES) else None
    return [found[name] for name in GRADES] if len(found) == len(GRADES) else None


def parse_verified(reply: str) -> int | None:
    """1, 0 or None; what the judge thinks aloud is left out."""
    reply = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)
    match = re.search(r"\*{0,2}score\*{0,2}\s*:\s*([01])(?!\d)", reply, flags=re.IGNORECASE)
    if match is not None:
        return int(match[1])
    bare = [line for line in map(str.strip, reply.splitlines()) if line in ("0", "1")]
    return int(bare[0]) if len(bare) == 1 else None


def wiscore(grades: Sequence[int]) -> float:
    """The score in [0, 1] of three grades: 0.7 consistency, 0.2 realism, 0.1 aesthetic quality."""
    consistency, realism, aesthetic = grades
    return (0.7 * consistency + 0.2 * realism + 0.1 * aesthetic) / 2


def aggregate(rows: Sequence[Mapping[str, Any]], generation: Generation) -> dict[str, float]:
    """Mean score in [0, 1] of each category, and `overall`, their weighted sum, where every category is
    there.

    Args:
        rows: `prompt_id` and `score`.
        generation: which weights and which numbering.
    """
    weights = WEIGHTS[generation]
    pools: dict[str, list[float]] = {}
    for row in rows:
        pools.setdefault(category_of(int(row["prompt_id"]), generation), []).append(float(row["score"]))
    table = {name: mean(pools[name]) for name in weights if name in pools}
    if len(table) < len(weights):
        return table
    return {"overall": sum(weights[name] * value for name, value in table.items()), **table}
