"""KL divergence of the policy from the reference it started from."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from deepgen.rl.objective import PolicyStep
from deepgen.sampling.sde import Transition

KL = Literal["velocity", "mean"]

_TINY = 1e-7  # keeps a step without noise finite


def check_kl(kind: KL, kl_coef: float) -> None:
    """ValueError unless the kind is known and the weight is a finite number that is not negative."""
    if kind not in ("velocity", "mean"):
        raise ValueError(f"unknown KL {kind!r}; known: velocity, mean")
    if not 0 <= kl_coef < math.inf:
        raise ValueError(f"kl_coef must be a finite number, 0 or more, got {kl_coef}; 0 switches the KL off")


def gaussian_kl(ours: Tensor, reference: Tensor, std: Tensor | float) -> Tensor:
    """mean((ours - reference)^2 / (2 std^2 + 1e-7)) over C, h and w, float32 (B,), 0 or more.

    KL between two normal distributions of equal standard deviation, for each element. The reference gets
    no gradient.

    Args:
        ours: velocity or step mean of the policy, (B, C, h, w).
        reference: the same of the reference model.
        std: broadcasts to (B, C, h, w).
    """
    # fp32: late steps weigh up to 1 / (2 std^2), thousands with cps, and bf16 would round the difference.
    squared = (ours.float() - reference.detach().float()).square()  # (B, C, h, w)
    return (squared / (2 * std**2 + _TINY)).flatten(1).mean(1)  # (B,)


def policy_kl(kind: KL, step: PolicyStep, ours: Transition) -> Tensor:
    """KL of the policy's stochastic step against the reference's from the same latents, float32 (B,).

    "velocity" compares the velocities, "mean" the means of the two steps, and both are measured in the
    sampler's `kl_std`. A mean is linear in its velocity, so the two differ by a weight of each noise level.

    Args:
        kind: "velocity" or "mean".
        step: has a `reference_velocity`.
        ours: the policy's transition, from `step.transition()`.

    Raises:
        ValueError: there is no reference velocity.
    """
    reference = step.need("reference_velocity")
    if kind == "velocity":
        return gaussian_kl(step.velocity, reference, ours.kl_std)
    return gaussian_kl(ours.mean, step.transition(reference).mean, ours.kl_std)
