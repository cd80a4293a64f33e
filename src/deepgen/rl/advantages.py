"""Advantages from rewards: how much better a picture is than those of its group.

Everything here is a function of the whole batch: the caller gathers rewards from all processes first, so
that statistics do not depend on how pictures were spread, and leaves them on the CPU, where sums have one
order and all processes get the same bits. A reward that could not be given is no zero; it is left out of
every mean and every standard deviation, and the other rewards of its picture take its weight.

Standardising divides by a spread, so it would make a signal of rounding noise as large as one of real
differences. What differs by less than a reward's own precision is therefore equal: its advantage is 0, and
its group is flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgen.moved import renamed

_TINY = 1e-4  # added to a standard deviation, so that a group of equals is divided by something
# Of a reward's largest value: scores are float32, whose neighbours are 6e-8 to 1.2e-7 of a number apart, and
# a score that was computed in it is a few such steps off.
_RELATIVE_PRECISION = 1e-6

# I images, R rewards, K of them or their total


@dataclass(frozen=True, kw_only=True)
class AdvantageBatch:
    """The advantage of each image over those it is compared with.

    Attributes:
        values: float32 (I,), 0 where there is no signal.
        has_signal: boolean (I,), whether an image had a valid reward and another one to compare it with.
        totals: float32 (I,), weighted rewards; NaN where no reward was given.
        groups: whole numbers (I,), equal for images of one prompt.
        flat: the groups in which all rewards are equal, sorted.
    """

    values: Tensor
    has_signal: Tensor
    totals: Tensor
    groups: Tensor
    flat: Tensor


__getattr__ = renamed(__name__, {"Advantages": "deepgen.rl.advantages.AdvantageBatch"})


def _share(valid: Tensor, weights: Tensor) -> Tensor:
    """Weights of the valid rewards, (I, R), scaled so that each image keeps its total weight."""
    kept = weights * valid
    return kept * weights.sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1e-12)


def _total(rewards: Tensor, valid: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted reward (I, 1) and whether there is one (I, 1)."""
    return (_share(valid, weights) * rewards).sum(1, keepdim=True), valid.any(1, keepdim=True)


def _whole(groups: Tensor) -> Tensor:
    """The groups where all images are compared with all."""
    return torch.zeros_like(groups)


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


def _centred(values: Tensor, valid: Tensor, groups: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Value minus group mean where at least two are valid, else 0, and where that is, (I, K) each.

    0 also in a group whose valid values are all within `precision`, (K,), of their mean.
    """
    mean, _, count = _statistics(values, valid, groups)
    compared = valid & (count >= 2)
    centred = torch.where(compared, values - mean, 0.0)
    size = (int(groups.max()) + 1, values.shape[1])
    places = groups[:, None].expand_as(values)
    widest = values.new_zeros(size).scatter_reduce(0, places, centred.abs(), "amax")[groups]  # (I, K)
    return torch.where(widest > precision, centred, 0.0), compared


def _standardised(values: Tensor, valid: Tensor, groups: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """(value - group mean) / (group std + 1e-4) where at least two are valid, else 0, and where that is."""
    _, std, _ = _statistics(values, valid, groups)
    centred, compared = _centred(values, valid, groups, precision)
    return centred / (torch.maximum(std, precision) + _TINY), compared


def _grpo(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """GRPO (arXiv 2402.03300, section 4.1.2): r = sum of W R, A = (r - group mean) / (group std + eps)."""
    return _standardised(*_total(rewards, valid, weights), groups, _of_total(precision, valid, weights))


def _grpo_global_std(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """GRPO with the std of the whole batch, which a group of near-equals cannot make small."""
    total, known = _total(rewards, valid, weights)
    precision = _of_total(precision, valid, weights)
    centred, compared = _centred(total, known, groups, precision)
    _, std, _ = _statistics(total, known, _whole(groups))
    return centred / (torch.maximum(std, precision) + _TINY), compared


def _reinforcepp(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """REINFORCE++ (arXiv 2501.03262): r against mean and std of the whole batch."""
    precision = _of_total(precision, valid, weights)
    return _standardised(*_total(rewards, valid, weights), _whole(groups), precision)


def _gdpo(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """GDPO (arXiv 2601.05242): every reward is standardised in its group before they are added.

    z = (R - group mean) / (group std + eps), c = sum of W z, A = (c - mean c) / (std c + eps) over the batch.
    So a reward with a wide spread does not drown one with a narrow spread.
    """
    z, compared = _standardised(rewards, valid, groups, precision)
    combined = (_share(valid, weights) * z).sum(1, keepdim=True)
    # z is of order 1, or exactly 0 where its reward said nothing
    return _standardised(combined, compared.any(1, keepdim=True), _whole(groups), precision.new_zeros(1))


# rewards (I, R), valid (I, R), weights (I, R), groups (I,), precision (R,) to
# advantages (I, 1), has_signal (I, 1)
_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
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
    name: str,
    rewards: Tensor,
    valid: Tensor,
    weights: Tensor,
    groups: Tensor,
    clip: float = 5.0,
    precision: Tensor | None = None,
) -> AdvantageBatch:
    """Advantages of a whole batch, gathered from all processes.

    Args:
        name: "grpo", "grpo_global_std", "reinforcepp" or "gdpo".
        rewards: (I, R); whatever stands where `valid` is False is not looked at.
        valid: boolean (I, R), which rewards were given.
        weights: (I, R), 0 or more; 0 where an image does not want a reward.
        groups: whole numbers (I,), equal for images of one prompt.
        clip: values are kept within [-clip, clip].
        precision: (R,), 0 or more: differences of a reward that mean nothing; at least that of float32, a
            millionth of the largest value in the batch.

    Raises:
        ValueError: the name is unknown, shapes disagree, a weight is negative, or a valid reward not finite.
    """
    check_advantages(name, clip)
    prepared = _prepare(rewards, valid, weights, groups)
    values, compared = _WAYS[name](*prepared, _precision(*prepared[:2], precision))
    values = torch.where(compared, values, 0.0).clamp(-clip, clip)
    return AdvantageBatch(
        values=values[:, 0].float(),
        has_signal=compared[:, 0],
        totals=weighted_totals(rewards, valid, weights),
        groups=groups,
        flat=flat_groups(rewards, valid, weights, groups, precision),
    )


def weighted_totals(rewards: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Sum of W R over the valid rewards of every image, float32 (I,), weights scaled to keep their total; NaN
    where none is valid.
    """
    groups = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
    total, known = _total(*_prepare(rewards, valid, weights, groups)[:3])
    return torch.where(known, total, math.nan)[:, 0].float()


def flat_groups(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor, precision: Tensor | None = None
) -> Tensor:
    """Groups that teach nothing, because every reward that counts is the same for all who got it, sorted.

    The same is what differs by no more than the reward's precision. Arguments are those of `advantages`; the
    result has their numbers in `groups`.
    """
    values, counts, _, places = _prepare(rewards, valid, weights, groups)
    centred, _ = _centred(values, counts, places, _precision(values, counts, precision))
    numbers = torch.unique(groups)
    teaches = torch.zeros(len(numbers), dtype=torch.bool, device=groups.device)
    teaches[places[(centred != 0).any(1)]] = True
    return numbers[~teaches]


def _precision(values: Tensor, counts: Tensor, given: Tensor | None) -> Tensor:
    """What differences of each reward mean nothing, float64 (R,): that of its type or the one declared."""
    own = _RELATIVE_PRECISION * torch.where(counts, values, 0.0).abs().amax(0)
    if given is None:
        return own
    if given.shape != own.shape or not bool((given >= 0).all()):
        raise ValueError(
            f"precision must be ({len(own)},) of numbers that are 0 or more, got {given.tolist()}"
        )
    return torch.maximum(own, given.to(own))


def _of_total(precision: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """Of the weighted sum of rewards, (1,): that of the image where it is coarsest."""
    return (_share(valid, weights) * precision).sum(1).amax(0, keepdim=True)


def _prepare(
    rewards: Tensor, valid: Tensor, weights: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the arguments of the public functions and bring them to float64.

    Returns:
        rewards (I, R), 0 where they do not count; which count (I, R): judged, and wanted; weights (I, R); and
        groups (I,), numbered from 0.
    """
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
    return (
        torch.where(counts, rewards, 0.0).double(),
        counts,
        weights.double(),
        torch.unique(groups, return_inverse=True)[1],
    )
