"""From rewards to advantages: how much better a picture is than those it is compared with.

Everything here is a function of the whole batch: the caller gathers rewards from all processes first, so
that statistics do not depend on how pictures were spread, and leaves them on the CPU, where sums have one
order and all processes get the same bits. A reward that could not be given is no zero; it is left out of
every mean and every standard deviation, and the other rewards of its picture take its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_TINY = 1e-4  # added to a standard deviation, so that a group of equals is divided by something

# I images, R rewards


@dataclass(frozen=True)
class Advantages:
    """What each image is worth to the policy.

    Attributes:
        values: float32 (I,), 0 where there is no signal.
        has_signal: boolean (I,), whether an image had a valid reward and another one to compare it with.
    """

    values: Tensor
    has_signal: Tensor


@dataclass(frozen=True)
class _Batch:
    """Rewards ready for statistics, float64, with groups numbered from 0."""

    rewards: Tensor  # (I, R), 0 where not valid
    valid: Tensor  # (I, R), what counts: judged, and wanted
    weights: Tensor  # (I, R), what is wanted
    groups: Tensor  # (I,)

    def total(self) -> tuple[Tensor, Tensor]:
        """Weighted reward (I, 1) and whether there is one (I, 1)."""
        return (self.share() * self.rewards).sum(1, keepdim=True), self.valid.any(1, keepdim=True)

    def share(self) -> Tensor:
        """Weights of the valid rewards, (I, R), scaled so that each image keeps its total weight."""
        kept = self.weights * self.valid
        return kept * self.weights.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1e-12)

    def whole(self) -> Tensor:
        """The groups of someone who compares all with all."""
        return torch.zeros_like(self.groups)


def _statistics(values: Tensor, valid: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, unbiased std and count of the valid values in each image's group, (I, K) each, for values (I, K).

    The std of fewer than two is 0.
    """
    size = (int(groups.max()) + 1, values.shape[1])

    def group_sum(x: Tensor) -> Tensor:
        return x.new_zeros(size).index_add(0, groups, x)[groups]

    weight = valid.to(values)
    count = group_sum(weight)
    mean = group_sum(values * weight) / count.clamp(min=1)
    squared = group_sum(((values - mean) * weight).square())
    return mean, (squared / (count - 1).clamp(min=1)).sqrt(), count


def _centred(values: Tensor, valid: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Value minus group mean where at least two are valid, else 0, and where that is, (I, K) each."""
    mean, _, count = _statistics(values, valid, groups)
    compared = valid & (count >= 2)
    return torch.where(compared, values - mean, 0.0), compared


def _standardised(values: Tensor, valid: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(value - group mean) / (group std + 1e-4) where at least two are valid, else 0, and where that is."""
    _, std, _ = _statistics(values, valid, groups)
    centred, compared = _centred(values, valid, groups)
    return centred / (std + _TINY), compared


def _grpo(batch: _Batch) -> tuple[Tensor, Tensor]:
    """GRPO (arXiv 2402.03300, section 4.1.2): r = sum of W R, A = (r - group mean) / (group std + eps)."""
    return _standardised(*batch.total(), batch.groups)


def _grpo_global_std(batch: _Batch) -> tuple[Tensor, Tensor]:
    """GRPO with the std of the whole batch, which a group of near-equals cannot make small."""
    total, valid = batch.total()
    centred, compared = _centred(total, valid, batch.groups)
    _, std, _ = _statistics(total, valid, batch.whole())
    return centred / (std + _TINY), compared


def _reinforcepp(batch: _Batch) -> tuple[Tensor, Tensor]:
    """REINFORCE++ (arXiv 2501.03262): r against mean and std of the whole batch."""
    return _standardised(*batch.total(), batch.whole())


def _gdpo(batch: _Batch) -> tuple[Tensor, Tensor]:
    """GDPO (arXiv 2601.05242): every reward is standardised in its group before they are added.

    z = (R - group mean) / (group std + eps), c = sum of W z, A = (c - mean c) / (std c + eps) over the batch.
    So a reward with a wide spread does not drown one with a narrow spread.
    """
    z, compared = _standardised(batch.rewards, batch.valid, batch.groups)
    combined = (batch.share() * z).sum(1, keepdim=True)
    return _standardised(combined, compared.any(1, keepdim=True), batch.whole())


_WAYS: dict[str, Callable[[_Batch], tuple[Tensor, Tensor]]] = {
    "grpo": _grpo,
    "grpo_global_std": _grpo_global_std,
    "reinforcepp": _reinforcepp,
    "gdpo": _gdpo,
}
NAMES = tuple(_WAYS)


def check_advantages(name: str, clip: float = 5.0) -> None:
    """ValueError unless the way is known and the clip above 0."""
    if name not in _WAYS:
        raise ValueError(f"unknown advantages {name!r}; known: {', '.join(NAMES)}")
    if not clip > 0:
        raise ValueError(f"the clip of advantages must be above 0, got {clip}; inf switches it off")


def advantages(
    name: str, rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, clip: float = 5.0
) -> Advantages:
    """Advantages of a whole batch, gathered from all processes.

    Args:
        name: "grpo", "grpo_global_std", "reinforcepp" or "gdpo".
        rewards: (I, R); whatever stands where `valid` is False is not looked at.
        valid: boolean (I, R), which rewards were given.
        weights: (I, R), 0 or more; 0 where an image does not want a reward.
        groups: whole numbers (I,), equal for images of one prompt.
        clip: values are kept within [-clip, clip].

    Raises:
        ValueError: the name is unknown, shapes disagree, a weight is negative, or a valid reward not finite.
    """
    check_advantages(name, clip)
    batch = _prepare(rewards, valid, weights, groups)
    values, compared = _WAYS[name](batch)
    values = torch.where(compared, values, 0.0).clamp(-clip, clip)
    return Advantages(values[:, 0].float(), compared[:, 0])


def weighted_totals(rewards: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Sum of W R over the valid rewards of every image, float32 (I,), weights scaled to keep their total; NaN
    where none is valid.
    """
    groups = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
    total, known = _prepare(rewards, valid, weights, groups).total()
    return torch.where(known, total, math.nan)[:, 0].float()


def flat_groups(rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor) -> Tensor:
    """Groups that teach nothing, because every reward that counts is the same for all who got it, sorted.

    Arguments are those of `advantages`; the result has their numbers in `groups`.
    """
    batch = _prepare(rewards, valid, weights, groups)
    mean, _, _ = _statistics(batch.rewards, batch.valid, batch.groups)
    # The mean of equal numbers may be off by a rounding.
    differs = batch.valid & ((batch.rewards - mean).abs() > 1e-12 * (1 + mean.abs()))
    numbers = torch.unique(groups)
    teaches = torch.zeros(len(numbers), dtype=torch.bool, device=groups.device)
    teaches[batch.groups[differs.any(1)]] = True
    return numbers[~teaches]


def _prepare(rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor) -> _Batch:
    """Check the arguments of the public functions and bring them to float64."""
    if rewards.ndim != 2 or not len(rewards):
        raise ValueError(f"rewards must be (images, rewards) and not empty, got {tuple(rewards.shape)}")
    for name, tensor in (("valid", valid), ("weights", weights)):
        if tensor.shape != rewards.shape:
            raise ValueError(
                f"{name} must be like rewards, {tuple(rewards.shape)}, got {tuple(tensor.shape)}"
            )
    if groups.shape != rewards.shape[:1]:
        raise ValueError(f"groups must be ({len(rewards)},), got {tuple(groups.shape)}")
    if not bool((weights >= 0).all()):
        raise ValueError("weights of rewards must be 0 or more")
    counts = valid.bool() & (weights > 0)
    if not bool(rewards[counts].isfinite().all()):
        raise ValueError("a valid reward is not finite; mark what could not be judged as not valid")
    # float64: a few hundred numbers, and a std of nearly equal rewards is a difference of close ones.
    return _Batch(
        torch.where(counts, rewards, 0.0).double(),
        counts,
        weights.double(),
        torch.unique(groups, return_inverse=True)[1],
    )
