"""PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, eq. 7)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ClipRange = float | tuple[float, float]


def check_clip_range(clip_range: ClipRange) -> None:
    """ValueError unless the range is a positive number, or a pair (low, high) with low <= 0 <= high."""
    if isinstance(clip_range, tuple):
        low, high = clip_range
        if not (-1 < low <= 0 <= high < math.inf):
            raise ValueError(
                "a pair clip_range holds offsets of the ratio and needs -1 < low <= 0 <= high, "
                f"as in (-1e-4, 2e-4), got {clip_range}"
            )
    elif not 0 < clip_range < 1:
        raise ValueError(f"clip_range must be between 0 and 1, got {clip_range}")


def bounds(clip_range: ClipRange) -> tuple[float, float]:
    """Lowest and highest ratio: 1 - c and 1 + c, or 1 + low and 1 + high of a pair."""
    if isinstance(clip_range, tuple):
        return 1 + clip_range[0], 1 + clip_range[1]
    return 1 - clip_range, 1 + clip_range


def clipped_loss(
    ratio: Tensor, advantages: Tensor, clip_range: ClipRange
) -> tuple[Tensor, dict[str, Tensor]]:
    """max(-A rho, -A clip(rho)) of every sample, float32 (B,), and which samples the clip silenced.

    The gradient of a sample is zero where its ratio has already left the range in the direction its
    advantage pushes.

    Args:
        ratio: new over old probability, float32 (B,), about 1.
        advantages: (B,).
        clip_range: how far the ratio may go.

    Returns:
        The loss, and metrics (B,): `ratio`, and as 0 or 1 `clip_low` (A < 0 below the range) and `clip_high`
        (A > 0 above it).
    """
    advantages = advantages.to(ratio)
    low, high = bounds(clip_range)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(low, high))  # (B,)
    with torch.no_grad():
        metrics = {
            "ratio": ratio.detach(),
            "clip_low": ((ratio < low) & (advantages < 0)).float(),
            "clip_high": ((ratio > high) & (advantages > 0)).float(),
        }
    return loss, metrics
