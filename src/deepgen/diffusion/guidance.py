"""Classifier-free guidance.

Both branches run as one batch, rows [negative, positive], because a DiT is faster on a batch of two than
twice on one.
"""

from __future__ import annotations

from torch import Tensor


def guide(velocity: Tensor, guidance_scale: float) -> Tensor:
    """v = v_neg + g (v_pos - v_neg), from rows [negative, positive]: (2 B, ...) to (B, ...)."""
    negative, positive = velocity.chunk(2)
    return negative + guidance_scale * (positive - negative)
