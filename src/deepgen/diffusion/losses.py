"""The flow-matching loss: a straight path from data to noise, and the velocity along it as the target."""

from __future__ import annotations

from torch import Tensor


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Noisy = (1 - sigma) * clean + sigma * noise, for samples (B, ...) and sigma (B,)."""
    sigma = sigma.view(-1, *[1] * (clean.ndim - 1))
    return (1 - sigma) * clean + sigma * noise


def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
    """D noisy / d sigma of the straight path: noise - clean."""
    return noise - clean


def flow_matching_loss(
    velocity: Tensor, clean: Tensor, noise: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Squared error of the velocity, (B,): mean over each sample, in float32, times the sample's `weight` (B,)."""
    # fp32: a mean over thousands of squares loses its small terms in bfloat16.
    error = (velocity.float() - velocity_target(clean, noise).float()).pow(2).flatten(1).mean(1)
    return error if weight is None else weight * error
