"""Statistics of scores: bootstrap intervals over items, and paired tests of two runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepgen.evaluation.benchmark import ItemScore
from deepgen.evaluation.data_rows import UNREADABLE

FEWEST = 5  # items of a category, for an interval
_Z = 1.96  # of a normal distribution, 95 %


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson score interval at 95 % of a share, in [0, 1], that was found in `count` independent trials.

    Of several pictures of a prompt `share` may be a mean, and `count` is then of prompts (Wilson 1927).
    """
    if count < 1:
        raise ValueError(f"an interval needs at least 1 trial, got {count}")
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def intervals(
    scores: Sequence[ItemScore],
    aggregate: Callable[[Sequence[ItemScore]], Mapping[str, float]],
    *,
    prompts: Mapping[str, str] | None = None,
    num_draws: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of every number of a table.

    Prompts are drawn with replacement within their category, so that every category keeps its size; samples
    of an item stay together, and so do items with the same prompt: a prompt that is there twice is not twice
    as much evidence. There is no interval where a category has fewer than five prompts: drawn from one, a
    number would seem certain.

    Args:
        scores: of one run.
        aggregate: scores to table.
        prompts: the prompt of each item; None where every item is its own. Edits are: their images differ.
        num_draws: bootstrap samples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    known = prompts or {}
    clusters: dict[str, dict[str, list[ItemScore]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        clusters[score.category][known.get(score.item, f"item {score.item}")].append(score)
    groups = [list(group.values()) for group in clusters.values()]
    sizes = [len(group) for category, group in clusters.items() if category != UNREADABLE]
    if min(sizes, default=0) < FEWEST:
        return {}
    drawn: dict[str, list[float]] = defaultdict(list)
    for _ in range(num_draws):
        sample = [
            score
            for group in groups
            for index in rng.integers(0, len(group), len(group))
            for score in group[index]
        ]
        try:
            table = aggregate(sample)
        except ValueError:  # a draw without a single verdict
            continue
        for name, value in table.items():
            drawn[name].append(value)
    return {
        name: (float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5)))
        for name, values in drawn.items()
    }


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two runs on the same items.

    Attributes:
        num_items: with a value in both.
        difference: mean of second minus first.
        interval: 95 % bootstrap interval of that.
        p_value: two-sided sign-flip permutation test; the chance of a difference this large where there is
            none.
        wins, losses, ties: items where the second is better, worse, equal.
    """

    num_items: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    wins: int
    losses: int
    ties: int


def paired(
    first: Mapping[str, float], second: Mapping[str, float], *, num_draws: int = 10_000, seed: int = 0
) -> Paired:
    """Compare values by item; ValueError where no item has both."""
    names = sorted(set(first) & set(second))
    if not names:
        raise ValueError("the two runs have no item with a value in both")
    rng = np.random.default_rng(seed)
    differences = np.array([second[name] - first[name] for name in names])
    observed = float(differences.mean())
    signs = rng.integers(0, 2, (num_draws, len(names)), dtype=np.int8) * 2 - 1
    flipped = np.abs(signs @ differences) / len(names)
    means = differences[rng.integers(0, len(names), (min(num_draws, 2000), len(names)))].mean(1)
    return Paired(
        num_items=len(names),
        difference=observed,
        interval=(float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))),
        p_value=float((1 + (flipped >= abs(observed) - 1e-12).sum()) / (num_draws + 1)),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        ties=int((differences == 0).sum()),
    )
