"""The straight path from data to noise; its velocity and the loss on it are in noise_levels.py."""

from __future__ import annotations

from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """noisy = (1 - sigma) * clean + sigma * noise, for samples (B, ...) and sigma (B,)."""
    sigma = sigma.view(-1, *[1] * (clean.ndim - 1))
    return (1 - sigma) * clean + sigma * noise
