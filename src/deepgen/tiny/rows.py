"""Training examples by number: what the data source and the prompts of reinforcement learning have in common.

Example number `index` is a pure function of a seed, the number and what may be drawn, so a run goes on from
any row. Only examples that no held-out level takes are ever drawn (see splits.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from deepgen.tiny.example import StorybookExample
from deepgen.tiny.splits import SAMPLERS, sample, weighted_kind

Group = Literal["caption", "edit", "reasoning", "reasoning edit"]
GROUPS: tuple[Group, ...] = get_args(Group)
EDIT_GROUPS: tuple[Group, ...] = ("edit", "reasoning edit")
_STREAM = 5  # apart from other uses of the same seed


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which examples of a group are drawn, and how often.

    Attributes:
        group: one of the four of `splits.SAMPLERS`.
        kinds: of the group; empty for all of them.
        weights: how often a kind is drawn beside the others; 1 where none is named.
    """

    group: Group = "caption"
    kinds: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse groups and kinds there are not, and weights that are none."""
        if self.group not in GROUPS:
            raise ValueError(f"unknown group {self.group!r}; known: {', '.join(GROUPS)}")
        known = SAMPLERS[self.group][0]
        unknown = [kind for kind in (*self.kinds, *self.weights) if kind not in known]
        if unknown:
            raise ValueError(f"unknown {self.group} kind {unknown[0]!r}; known: {', '.join(known)}")
        wrong = {kind: weight for kind, weight in self.weights.items() if not 0 <= weight < math.inf}
        if wrong:
            kind, weight = next(iter(wrong.items()))
            raise ValueError(f"the weight of {kind} must be at least 0 and finite, got {weight!r}")
        if not any(self.shares.values()):
            raise ValueError(f"no kind of {self.group} is left to draw: every weight is 0")

    @property
    def shares(self) -> dict[str, float]:
        """The weight of every kind of the group, 0 for those that are not drawn."""
        return {
            kind: self.weights.get(kind, 1.0) if not self.kinds or kind in self.kinds else 0.0
            for kind in SAMPLERS[self.group][0]
        }

    @property
    def is_edit(self) -> bool:
        """Whether its examples start from a picture."""
        return self.group in EDIT_GROUPS

    def example(self, seed: int, index: int) -> StorybookExample:
        """Training example number `index` of this seed."""
        rng = np.random.default_rng((seed, _STREAM, index))
        return sample(rng, weighted_kind(rng, [self.group], self.shares))
