"""The objectives there are: one file each, and the file's name is the objective's name.

Such a file defines `objective`, a frozen dataclass of what may be set that is called with a PolicyStep
(rl/objective.py says what it has to be).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from deepgen.rl.objective import Objective


def objective_names() -> list[str]:
    """The objectives there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_objective(name: str, **options: Any) -> Objective:
    """An objective by its name; ValueError where it, one of its options or a value is unknown."""
    if name not in objective_names():
        raise ValueError(f"unknown objective {name!r}; known: {', '.join(objective_names())}")
    objective = importlib.import_module(f"{__name__}.{name}").objective
    known = [field.name for field in dataclasses.fields(objective)]
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"unknown option {unknown[0]!r}; objective {name} has: {', '.join(known)}")
    return objective(**options)
