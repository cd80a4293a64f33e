"""Pairwise comparison within a group: which pairs to compare, and the score of each member.

All pairs cost N (N - 1) / 2 comparisons. An anchor costs N - 1, Swiss rounds about N/2 log2 N: in each
round those meet that have fared alike so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

Pair = tuple[int, int]
Outcome = tuple[int, int, float]  # first, second, and the first's share of the point: 1, 0.5 or 0


def all_pairs(size: int) -> list[Pair]:
    """Everyone against everyone."""
    return list(combinations(range(size), 2))


def anchor_pairs(size: int) -> list[Pair]:
    """Everyone against the first; members of a group are exchangeable, so it is as good as a drawn one."""
    return [(0, other) for other in range(1, size)]


def num_swiss_rounds(size: int) -> int:
    """Rounds after which one member can be unbeaten."""
    return math.ceil(math.log2(size)) if size > 1 else 0


def swiss_pairs(size: int, outcomes: Sequence[Outcome], met: Sequence[Pair]) -> list[Pair]:
    """The pairs of the next round: neighbours in the standings who have not met; an odd one is left out."""
    points = np.zeros(size)
    for first, second, share in outcomes:
        points[first] += share
        points[second] += 1 - share
    waiting = sorted(range(size), key=lambda i: (-points[i], i))
    known, pairs = {frozenset(pair) for pair in met}, []
    while len(waiting) > 1:
        first = waiting.pop(0)
        partner = next((other for other in waiting if frozenset((first, other)) not in known), None)
        if partner is not None:
            waiting.remove(partner)
            pairs.append((first, partner))
    return pairs


def win_rates(size: int, outcomes: Sequence[Outcome]) -> list[float | None]:
    """Points of each member per comparison, in [0, 1]; None for one that was in none."""
    points, played = np.zeros(size), np.zeros(size)
    for first, second, share in outcomes:
        points[first] += share
        points[second] += 1 - share
        played[[first, second]] += 1
    return [float(points[i] / played[i]) if played[i] else None for i in range(size)]


def expected_win_rates(size: int, outcomes: Sequence[Outcome]) -> list[float | None]:
    """What each member would win against all the others, in [0, 1], by a Bradley-Terry model of the outcomes.

    For rounds in which the better meet the better, where plain win rates would be unfair. Half a won and half
    a lost game against an average member keep strengths finite. Fitted by Hunter's (2004) iteration.
    """
    points, games = np.full(size, 0.5), np.zeros((size, size))
    for first, second, share in outcomes:
        points[first] += share
        points[second] += 1 - share
        games[first, second] += 1
        games[second, first] += 1
    strength = np.ones(size)
    for _ in range(200):
        weights = (games / (strength[:, None] + strength[None])).sum(1) + 1 / (strength + 1)
        strength = points / weights
    chance = strength[:, None] / (strength[:, None] + strength[None])  # (N, N)
    others = (chance.sum(1) - 0.5) / max(1, size - 1)
    return [float(others[i]) if games[i].any() else None for i in range(size)]
