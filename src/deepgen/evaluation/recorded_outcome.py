"""One comparison of a recorded value with what the scoring code gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One comparison: where it stands, and what differs (empty where nothing does)."""

    case: str
    mismatch: str = ""


def difference(expected: Any, got: Any, tolerance: float) -> str:
    """The first place where two plain values differ, in words; empty where they agree.

    Sets count as sorted lists, tuples as lists; numbers agree within the tolerance.
    """
    if isinstance(got, set | frozenset):
        got = sorted(got)
    if isinstance(expected, dict) and isinstance(got, Mapping):
        if set(expected) != set(got):
            return f"keys {sorted(map(str, got))} instead of {sorted(map(str, expected))}"
        found = ((key, difference(expected[key], got[key], tolerance)) for key in expected)
        return next((f"{key}: {text}" for key, text in found if text), "")
    if isinstance(expected, list) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            return f"{got!r} instead of {expected!r}"
        found = ((i, difference(a, b, tolerance)) for i, (a, b) in enumerate(zip(expected, got, strict=True)))
        return next((f"[{key}]: {text}" for key, text in found if text), "")
    numbers = isinstance(expected, int | float) and isinstance(got, int | float)
    if numbers and not isinstance(expected, bool) and not isinstance(got, bool):
        is_same = math.isclose(expected, got, rel_tol=tolerance, abs_tol=tolerance)
    else:
        is_same = type(expected) is type(got) and expected == got
    return "" if is_same else f"{got!r} instead of {expected!r}"
