"""Rewards of the user's own, by the place of a file or by an entry point: a class, or a function.

    def redness(candidate, strength: float = 1.0):
        ...
        return score        # a number from 0 to 1, or a RewardResult

is a whole reward: it looks at each candidate alone, and its further parameters are its options. A class keeps
the contract of `deepgen.rewards.reward.Reward`, and so can have another range, or compare the images of a
group.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import asdict, make_dataclass
from numbers import Real
from types import SimpleNamespace
from typing import Any

from deepgen.registry import NoOptions, options_of
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult
from deepgen.user_files import UserFileError

_DECLARED = ("kind", "needs", "low", "high", "concurrency", "version")


def adapted(place: str, found: Any, digest: str) -> SimpleNamespace:
    """`reward` and `options` of a class or a function.

    Args:
        place: how it was named, for messages.
        found: the class or function.
        digest: sha256 of its file, which becomes part of the reward's version; empty for an installed
            package.

    Raises:
        ValueError: it is neither, or a class that lacks something.
    """
    if inspect.isclass(found):
        made, options = _checked(place, found), options_of(found)
    elif callable(found):
        made, options = _of_function(place, found)
    else:
        raise ValueError(
            f"{place} is {type(found).__name__}; a reward is a class, or a function of a candidate that "
            "returns a number"
        )
    return SimpleNamespace(reward=_versioned(made, digest) if digest else made, options=options)


def _checked(place: str, made: type) -> type:
    if not any("__call__" in vars(base) for base in made.__mro__):
        raise ValueError(
            f"{place} cannot be called; derive it from deepgen.rewards.reward.EachAlone and write judge"
        )
    lacking = [name for name in _DECLARED if not hasattr(made, name)]
    if lacking:
        raise ValueError(
            f"{place} lacks {', '.join(lacking)}; derive it from deepgen.rewards.reward.EachAlone"
        )
    return made


def _of_function(place: str, function: Callable[..., Any]) -> tuple[type, type]:
    """A reward that looks at each candidate alone, and the dataclass of the function's further parameters."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or any(p.default is p.empty for p in parameters[1:]):
        raise ValueError(
            f"{place} takes {', '.join(p.name for p in parameters) or 'nothing'}; a reward takes a "
            "candidate, and options that have a default"
        )
    hints = typing.get_type_hints(function)
    rows = [(p.name, hints.get(p.name, type(p.default)), p.default) for p in parameters[1:]]
    options = (
        make_dataclass(f"{function.__name__}_options", rows, frozen=True, kw_only=True) if rows else NoOptions
    )

    class OwnReward(EachAlone):
        version = place.rpartition(":")[2]

        def __init__(self, given: Any = None) -> None:
            self.given = {} if given is None else asdict(given)
            if self.given:
                self.version = f"{self.version}-{'-'.join(map(str, self.given.values()))}"

        def judge(self, candidate: Candidate) -> RewardResult:
            score = function(candidate, **self.given)
            if isinstance(score, RewardResult):
                return score
            if isinstance(score, bool) or not isinstance(score, Real):
                raise UserFileError(
                    f"{place} returned {score!r}; a reward returns a number, or a RewardResult"
                )
            return RewardResult(float(score))

    OwnReward.__doc__ = inspect.getdoc(function) or place
    return OwnReward, options


def _versioned(made: type, digest: str) -> type:
    """The class with the file's content in its version, so that a score of an earlier content is never taken
    for one of this.
    """

    def get(self: Any) -> str:
        own = self.__dict__.get("_own_version")
        return f"{made.version if own is None else own}-{digest[:8]}"

    def put(self: Any, version: str) -> None:
        self.__dict__["_own_version"] = version

    if isinstance(inspect.getattr_static(made, "version"), property):
        own = made.version.fget  # pyright: ignore[reportAttributeAccessIssue]
        version: Any = property(lambda self: f"{own(self)}-{digest[:8]}")
    else:
        version = property(get, put)
    return type(
        made.__name__, (made,), {"version": version, "__doc__": made.__doc__, "__module__": made.__module__}
    )
