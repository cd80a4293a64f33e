"""Statistics of scores: bootstrap intervals over distinct claims, and paired tests of two runs.

A claim is what has to hold in a picture. Pictures of one claim, from several seeds or in several wordings,
are right and wrong together, so the claim is what is drawn with replacement, with all of its pictures.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepgen.evaluation.benchmark import ItemScore
from deepgen.evaluation.data_rows import UNREADABLE

FEWEST = 5  # items of a category, for an interval
LEAST_SEEDS = 8  # runs of each side, for a claim that one is better
PUBLISHED_SEEDS = 3  # of the evaluation, for a figure that is published
_Z = 1.96  # of a normal distribution, 95 %
# 97.5 % quantiles of Student's t with 1, 2, ... 30 degrees of freedom; beyond, the last one is a little wide.
_T_QUANTILES = (
    *(
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.447,
        2.365,
        2.306,
        2.262,
        2.228,
        2.201,
        2.179,
        2.160,
        2.145,
        2.131,
    ),
    *(
        2.120,
        2.110,
        2.101,
        2.093,
        2.086,
        2.080,
        2.074,
        2.069,
        2.064,
        2.060,
        2.056,
        2.052,
        2.048,
        2.045,
        2.042,
    ),
)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson score interval at 95 % of a share, in [0, 1], that was found in `count` independent trials.

    Of several pictures of a prompt `share` may be a mean, and `count` is then of prompts (Wilson 1927).
    """
    if count < 1:
        raise ValueError(f"an interval needs at least 1 trial, got {count}")
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def seeds_note(num_seeds: int) -> str:
    """What stands below a table that is of too few seeds to be published; "" below others."""
    if num_seeds >= PUBLISHED_SEEDS:
        return ""
    seeds = f"{num_seeds} seed{'s' * (num_seeds != 1)}"
    return f"of {seeds}; publish means of {PUBLISHED_SEEDS} (--seeds {PUBLISHED_SEEDS})"


def share_interval(
    *groups: Mapping[Hashable, Sequence[float]], num_draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval over distinct claims of a share of right pictures, in [0, 1].

    Of several groups, such as kinds, it is that of the mean of their shares, and each group's claims are
    drawn among themselves. Where a bootstrap sees too little - fewer than five claims, or none that differ
    within a group - it is Wilson's interval, with as many trials as there are claims.

    Args:
        groups: the verdicts on each claim's pictures, 0 or 1 each.
        num_draws: bootstrap samples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    shares, drawn = [], np.zeros(num_draws)
    num_claims, is_narrow = 0, True
    for group in groups:
        right = np.array([float(np.sum(verdicts)) for verdicts in group.values()])
        count = np.array([len(verdicts) for verdicts in group.values()])
        chosen = rng.integers(0, len(group), (num_draws, len(group)))
        drawn += right[chosen].sum(1) / count[chosen].sum(1) / len(groups)
        shares.append(right.sum() / count.sum())
        num_claims += len(group)
        is_narrow = is_narrow and np.ptp(right / count) == 0
    if is_narrow or num_claims < FEWEST:
        return wilson(float(np.mean(shares)), num_claims)
    return float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5))


def intervals(
    scores: Sequence[ItemScore],
    aggregate: Callable[[Sequence[ItemScore]], Mapping[str, float]],
    *,
    claims: Mapping[str, str] | None = None,
    num_draws: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of every number of a table.

    Claims are drawn with replacement within their category, so that every category keeps its size; samples
    of an item stay together, and so do items with the same claim: one that is there twice is not twice as
    much evidence. There is no interval where a category has fewer than five claims: drawn from one, a number
    would seem certain.

    Args:
        scores: of one run.
        aggregate: scores to table.
        claims: of each item, such as its prompt; items that are not named are claims of their own.
        num_draws: bootstrap samples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    known = claims or {}
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


@dataclass(frozen=True)
class SeedMean:
    """What several runs, which differ by their seed alone, came to; `str` gives it as it may be published.

    Attributes:
        mean: of the runs.
        num_seeds: how many there were.
        half_width: of the 95 % confidence interval of the mean (Student's t, which supposes that runs
            scatter about normally); None of fewer than `LEAST_SEEDS`, whose interval says more of its
            assumptions than of the runs.
    """

    mean: float
    num_seeds: int
    half_width: float | None

    @property
    def is_significant(self) -> bool:
        """Whether a difference may be claimed: the interval is there and does not hold 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def shown(self, digits: int) -> str:
        """With its sign; ± is half of the 95 % confidence interval, and stands nowhere without one."""
        text = f"{self.mean:+.{digits}f}"
        return text if self.half_width is None else f"{text} ± {self.half_width:.{digits}f}"


def over_seeds(values: Sequence[float]) -> SeedMean:
    """The mean of paired differences, one a seed, and its 95 % confidence interval.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("a mean over seeds needs at least 1 run, got 0")
    count = len(values)
    half = None
    if count >= LEAST_SEEDS:
        quantile = _T_QUANTILES[min(count - 1, len(_T_QUANTILES)) - 1]
        half = quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
    return SeedMean(float(np.mean(values)), count, half)


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
