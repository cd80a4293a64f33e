"""Classifier-free guidance.

Both branches run as one batch, rows [negative, positive], because a DiT is faster on a batch of two than
twice on one.
"""

from __future__ import annotations

from torch import Tensor


def guide(velocity: Tensor, guidance_scale: float) -> Tensor:
    """v = v_neg + g (v_pos - v_neg), from rows [negative, positive]: (2 B, ...) to (B, ...)."""
    negative, positive = velocity.chunk(2)  # (B, ...) each
    return negative + guidance_scale * (positive - negative)


class Guidance:
    """Guidance along one trajectory, where the negative branch may be skipped at some steps.

    The difference of both branches changes slowly near the picture, so where only the positive one was
    computed the last difference stands for the next: v = v_pos + (g - 1) (v_pos - v_neg)_last. Leaving
    guidance out there instead (arXiv 2404.07724) draws another picture.
    """

    def __init__(self, guidance_scale: float) -> None:
        self.guidance_scale = guidance_scale
        self._difference: Tensor | None = None  # (B, ...)

    @property
    def has_difference(self) -> bool:
        """Whether both branches have run, so that the negative one may be skipped."""
        return self._difference is not None

    def __call__(self, velocity: Tensor) -> Tensor:
        """Guided velocity from rows [negative, positive]: (2 B, ...) to (B, ...)."""
        negative, positive = velocity.chunk(2)  # (B, ...) each
        self._difference = positive - negative
        return guide(velocity, self.guidance_scale)

    def extend(self, positive: Tensor) -> Tensor:
        """Guided velocity from the positive rows alone, (B, ...) both; both branches must have run before."""
        if self._difference is None:
            raise ValueError("the negative branch cannot be skipped at the first step; guide once before")
        return positive + (self.guidance_scale - 1) * self._difference
