"""The objectives there are: one file each, and the file's name is the objective's name.

Such a file defines `objective`, a frozen dataclass of what may be set that is called with a PolicyStep
(rl/objective.py says what it has to be).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from deepgen.registry import Registry
from deepgen.rl.objective import Objective

OBJECTIVES = Registry("objective", __name__, __path__)


def objective_names() -> list[str]:
    """The objectives there are."""
    return OBJECTIVES.names()


def make_objective(name: str, **options: Any) -> Objective:
    """An objective by its name; ValueError where it, one of its options or a value is unknown."""
    objective = OBJECTIVES.load(name).objective
    known = [field.name for field in dataclasses.fields(objective)]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"unknown option {unknown[0]!r}; objective {name} has: {', '.join(known)}")
    return objective(**options)
