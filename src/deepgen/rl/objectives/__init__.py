"""The objectives there are: one file each, and the file's name is the objective's name.

Such a file defines `objective`, a frozen dataclass of what may be set that is called with a PolicyStep
(rl/objective.py says what it has to be). A name may also be the place of one of the user's own, `mine.py` or
`mine.py:Mine`.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from deepgen.registry import Registry
from deepgen.rl.objective import Objective

_DECLARED = ("works_on", "needs", "kl_coef")


def _adapted(place: str, found: Any, digest: str) -> SimpleNamespace:
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(
            f"{place} is no frozen dataclass; an objective is one that is called with a PolicyStep"
        )
    known = [field.name for field in dataclasses.fields(found)]
    lacking = [name for name in _DECLARED if name not in known and not hasattr(found, name)]
    if lacking or not any("__call__" in vars(base) for base in found.__mro__):
        raise ValueError(
            f"{place} lacks {', '.join(lacking) or '__call__'}; see deepgen.rl.objective.Objective"
        )
    return SimpleNamespace(objective=found)


OBJECTIVES = Registry("objective", __name__, __path__, adapt=_adapted)


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
