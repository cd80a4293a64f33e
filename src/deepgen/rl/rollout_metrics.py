"""What a rollout says of its scores: numbers for the log, and words for the terminal.

A mean over the images that got a score says nothing without their number, so no mean stands without its
count, and every image without a score is counted under the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deepgen.rewards.reward_batch import RewardBatch, ScoreTally
from deepgen.rl.advantages import AdvantageBatch, flat_groups

Metrics = dict[str, tuple[float, float]]  # (sum, count) of a mean; (number, 0) of what is added up


def score_metrics(tallies: Mapping[str, ScoreTally]) -> Metrics:
    """Of every reward asked: mean and std of its scores, their number, and how many images have none.

    They are `reward/NAME`, `reward_std/NAME`, `scored/NAME`, `masked/NAME` and, for every reason,
    `masked/NAME/REASON`.
    """
    metrics: Metrics = {}
    for name, tally in tallies.items():
        if tally.num_scored:
            metrics[f"reward/{name}"] = (float(np.sum(tally.values)), float(tally.num_scored))
            metrics[f"reward_std/{name}"] = (float(np.std(tally.values)), 1.0)
        metrics[f"scored/{name}"] = (float(tally.num_scored), 0.0)
        metrics[f"masked/{name}"] = (float(tally.num_masked), 0.0)
        for reason, count in tally.masked.items():
            metrics[f"masked/{name}/{reason}"] = (float(count), 0.0)
    return metrics


def total_metrics(worth: AdvantageBatch, datasets: Mapping[int, str], *, each: bool) -> Metrics:
    """Weighted rewards: `reward` and `scored` of all images, `reward_of/SET` and `scored_of/SET` of each set.

    Args:
        worth: with the weighted reward of every image.
        datasets: the set of prompts each group is from.
        each: whether sets are told apart.
    """
    totals = worth.totals.numpy()
    of = np.array([datasets[group] for group in worth.groups.tolist()])
    parts = {"reward": ("scored", totals)}
    if each:
        parts |= {f"reward_of/{name}": (f"scored_of/{name}", totals[of == name]) for name in np.unique(of)}
    metrics: Metrics = {}
    for name, (count_name, values) in parts.items():
        known = values[~np.isnan(values)]
        if len(known):
            metrics[name] = (float(known.sum()), float(len(known)))
        metrics[count_name] = (float(len(known)), 0.0)
    return metrics


def flat_shares(
    rewards: RewardBatch, groups: np.ndarray, precisions: Sequence[float]
) -> dict[str, tuple[float, int]]:
    """For every reward: the share of groups in which its scores are equal, and how many groups there are.

    Args:
        rewards: of all images.
        groups: whole numbers (I,), equal for images of one prompt.
        precisions: of the rewards, as in `RewardEnsemble.precisions`.
    """
    shares = {}
    for column, name in enumerate(rewards.names):
        judged = rewards.valid[:, column] & (rewards.weights[:, column] > 0)
        if not judged.any():
            continue
        values, weights, numbers = (
            torch.from_numpy(part[judged]) for part in (rewards.rewards, rewards.weights, groups)
        )
        one = slice(column, column + 1)
        flat = flat_groups(
            values[:, one],
            torch.ones(len(values), 1, dtype=torch.bool),
            weights[:, one],
            numbers,
            torch.tensor(precisions[one]),
        )
        num_groups = len(torch.unique(numbers))
        shares[name] = (len(flat) / num_groups, num_groups)
    return shares


class ScoreRemarks:
    """What a run has to say in words about the scores of its rollouts.

    Said in the first rollout in which it is so, and then after twice as many each time, so that a fault is
    seen and does not fill the terminal; every line of the log has the numbers.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(
        self, number: int, tallies: Mapping[str, ScoreTally], shares: Mapping[str, tuple[float, int]]
    ) -> list[str]:
        """Of a rollout with this number."""
        found = {
            f"masked {name}": f"reward {name}: {tally}" for name, tally in tallies.items() if tally.num_masked
        }
        for name, (share, num_groups) in shares.items():
            if share == 1.0:
                values = sorted(tallies[name].values)
                said = f"all {len(values)} scores are {values[0]:.6g}"
                if values[-1] - values[0] > 1e-6 * max(map(abs, values)):
                    said = f"its scores are equal within each of {num_groups} groups"
                found[f"flat {name}"] = f"reward {name}: {said}; so it teaches nothing"
        remarks = []
        for key, text in found.items():
            self._seen[key] += 1
            times = self._seen[key]
            if times & (times - 1) == 0:
                so_far = "" if times == 1 else f" (so in {times} rollouts)"
                remarks.append(f"rollout {number}: {text}{so_far}")
        return remarks
