"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): supervised learning on good and bad samples.

No log-prob, no stochastic sampler, no trajectory: finished latents get fresh noise, and the policy is taught
along the forward process. With v_old of the sampling policy, two implicit policies are mixed,

    v+ = (1 - beta) v_old + beta v        v- = (1 + beta) v_old - beta v

and v+ is fitted to a sample in proportion to how good it was, v- in proportion to how bad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deepgen.rl.objective import Ground, ObjectiveLoss, PolicyStep
from deepgen.rl.policy_gradient import check_kl, gaussian_kl
from deepgen.sampling.interpolation import interpolate

_SMALLEST_ERROR = 1e-5  # of the self-normalisation, which divides by it


@dataclass(frozen=True, kw_only=True)
class NFT:
    """adv_clip * (r L+ + (1 - r) L-) / beta + kl_coef * KL.

    r = A / (2 adv_clip) + 1/2 within [0, 1]; clean+- = noisy - sigma v+-; and
    L+- = mean((clean+- - clean)^2) / mean|clean+- - clean|, the denominator without gradient, so that every
    noise level pulls about equally.

    Attributes:
        beta: how far the implicit policies are from the old one, above 0.
        adv_clip: the advantage at which a sample is wholly good, above 0.
        kl_coef: weight of mean((v - v_ref)^2) / (2 kl_std^2); 0 needs no reference.
        kl_std: what that KL is measured in; no sampler gives one here, and 0.1 is the original's.
        shift: static shift of the noise levels that `renoise` gives, 1 = none.
        variant: "paper" as above. "upstream" is a fault of the original, kept to compare with it: it works on
            recorded steps, with `noisy` from the trajectory and the next noisy latents as the target in the
            place of clean ones.
    """

    beta: float = 0.1
    adv_clip: float = 5.0
    kl_coef: float = 5e-7
    kl_std: float = 0.1
    shift: float = 3.0
    variant: Literal["paper", "upstream"] = "paper"

    def __post_init__(self) -> None:
        """Impossible settings fail here."""
        if self.variant not in ("paper", "upstream"):
            raise ValueError(f"unknown variant {self.variant!r} of nft; known: paper, upstream")
        for name in ("beta", "adv_clip", "kl_std", "shift"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value}")
        check_kl("velocity", self.kl_coef)

    @property
    def works_on(self) -> Ground:
        """Finished latents; steps of a rollout for "upstream"."""
        return "clean" if self.variant == "paper" else "trajectory"

    @property
    def needs(self) -> tuple[str, ...]:
        """What a rollout has to record; `old_velocity` is optional."""
        reference = ("reference_velocity",) if self.kl_coef else ()
        return ("clean" if self.variant == "paper" else "next_noisy", *reference)

    def renoise(self, clean: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Finished latents with fresh noise, float32 (B, C, h, w), and their sigma, float32 (B,) in (0, 1].

        Args:
            clean: (B, C, h, w).
            noise: standard normal, like `clean`.
            u: (B,) in [0, 1), uniform or of another density; 0 becomes noise alone.
        """
        levels = 1 - u.float().to(clean.device)
        sigma = self.shift * levels / (1 + (self.shift - 1) * levels)
        return interpolate(clean.float(), noise.float(), sigma), sigma

    def __call__(self, step: PolicyStep) -> ObjectiveLoss:
        """Losses of B samples.

        Where no `old_velocity` is given the policy itself is the old one, without gradient: on-policy.

        Metrics: `policy_loss`, `good` = r, `positive_loss` and `negative_loss` = L+ and L-, and `kl`.
        """
        # fp32: v+ and v- differ from v_old by beta times a small difference.
        velocity, noisy = step.velocity.float(), step.noisy.float()  # (B, C, h, w)
        old = (velocity if step.old_velocity is None else step.old_velocity.float()).detach()  # (B, C, h, w)
        target = step.need("clean" if self.variant == "paper" else "next_noisy").detach().float()
        sigma = step.sigma.float().view(-1, *[1] * (noisy.ndim - 1))  # (B, 1, 1, 1)

        positive = self._distance(noisy - sigma * ((1 - self.beta) * old + self.beta * velocity), target)
        negative = self._distance(noisy - sigma * ((1 + self.beta) * old - self.beta * velocity), target)
        good = (step.advantages.float() / (2 * self.adv_clip) + 0.5).clamp(0, 1)  # (B,)
        loss = self.adv_clip * (good * positive + (1 - good) * negative) / self.beta  # (B,)
        metrics = {
            "policy_loss": loss.detach(),
            "good": good.detach(),
            "positive_loss": positive.detach(),
            "negative_loss": negative.detach(),
        }
        if self.kl_coef:
            kl = gaussian_kl(velocity, step.need("reference_velocity"), self.kl_std)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coef * kl
        return ObjectiveLoss(loss, metrics)

    @staticmethod
    def _distance(clean: Tensor, target: Tensor) -> Tensor:
        """mean(error^2) / mean|error| of every sample, (B,); the paper's adaptive loss weighting."""
        error = (clean - target).flatten(1)  # (B, C h w)
        typical = error.detach().abs().mean(1).clamp(min=_SMALLEST_ERROR)  # (B,)
        return error.square().mean(1) / typical


objective = NFT
