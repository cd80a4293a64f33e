"""Base of the objectives on recorded steps: a clipped ratio of new to old, and a KL to the reference."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from deepgen.rl.objective import Ground, ObjectiveLoss, PolicyStep
from deepgen.sampling.sde import Transition

# --- how far a ratio may go: PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, eq. 7)

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
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(low, high))
    with torch.no_grad():
        metrics = {
            "ratio": ratio.detach(),
            "clip_low": ((ratio < low) & (advantages < 0)).float(),
            "clip_high": ((ratio > high) & (advantages > 0)).float(),
        }
    return loss, metrics


# --- how far the policy has moved from the reference it started from

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
    squared = (ours.float() - reference.detach().float()).square()
    return (squared / (2 * std**2 + _TINY)).flatten(1).mean(1)


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


# --- the loss of a step


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(ABC):
    """max(-A rho, -A clip(rho)) + kl_coef * KL; a subclass says what the ratio rho of a step is.

    Attributes:
        clip_range: how far a ratio may go: c for [1 - c, 1 + c], or offsets (low, high) of 1. Small, because
            log-probs are means over the picture; with "cps" they also lack 1 / (2 std^2).
        kl_coef: weight of the KL against the reference; 0 needs no reference.
        kl: "velocity" or "mean" (`policy_kl`).
    """

    clip_range: ClipRange = 1e-4
    kl_coef: float = 5e-7
    kl: KL = "velocity"

    def __post_init__(self) -> None:
        """Impossible settings fail here."""
        check_clip_range(self.clip_range)
        check_kl(self.kl, self.kl_coef)

    @property
    def works_on(self) -> Ground:
        """Steps of a rollout."""
        return "trajectory"

    @property
    def needs(self) -> tuple[str, ...]:
        """What a rollout has to record."""
        reference = ("reference_velocity",) if self.kl_coef else ()
        return ("sigma_next", "next_noisy", "old_log_prob", *reference)

    @abstractmethod
    def ratio(self, step: PolicyStep, transition: Transition, difference: Tensor) -> Tensor:
        """How much likelier a step became, (B,).

        Args:
            step: what was drawn.
            transition: the policy's step from the same latents.
            difference: new minus old log-prob of what was drawn, float32 (B,).
        """

    def step_weight(self, transition: Transition) -> Tensor | float:
        """What the clipped loss of a step is multiplied with: (B,), or a number for all."""
        return 1.0

    def __call__(self, step: PolicyStep) -> ObjectiveLoss:
        """Losses of B samples.

        Metrics: those of `clipped_loss`, `policy_loss`, `kl` where there is one, and of the difference of
        log-probs to the policy that drew the samples `log_prob_gap`, its size, and `approx_kl`, half its
        square.

        Raises:
            ValueError: something that is needed was not recorded.
        """
        transition = step.transition()
        # fp32 on both sides: rounding an old log-prob of about -1 to bf16 (spacing 4e-3) moves the ratio
        # further than the clip range of 1e-4, and most samples are then clipped at random.
        difference = transition.log_prob(step.need("next_noisy")) - step.need("old_log_prob").float()
        ratio = self.ratio(step, transition, difference)  # (B,)
        loss, metrics = clipped_loss(ratio, step.advantages, self.clip_range)  # (B,)
        loss = loss * self.step_weight(transition)
        gap = difference.detach()
        metrics |= {"policy_loss": loss.detach(), "approx_kl": gap.square() / 2, "log_prob_gap": gap.abs()}
        if self.kl_coef:
            kl = policy_kl(self.kl, step, transition)  # (B,)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coef * kl
        return ObjectiveLoss(loss, metrics)
