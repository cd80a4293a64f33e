"""Base of the objectives on recorded steps: a clipped ratio of new to old, and a KL to the reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from deepgen.rl.clipping import ClipRange, check_clip_range, clipped_loss
from deepgen.rl.kl import KL, check_kl, policy_kl
from deepgen.rl.objective import Ground, ObjectiveLoss, PolicyStep
from deepgen.sampling.sde import Transition


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(ABC):
    """max(-A rho, -A clip(rho)) + kl_coef * KL; a subclass says what the ratio rho of a step is.

    Attributes:
        clip_range: how far a ratio may go: c for [1 - c, 1 + c], or offsets (low, high) of 1. Small, because
            log-probs are means over the picture; with "cps" they also lack 1 / (2 std^2).
        kl_coef: weight of the KL against the reference; 0 needs no reference.
        kl: "velocity" or "mean" (rl/kl.py).
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

        Metrics: those of `clipped_loss`, `policy_loss`, `kl` where there is one, and `approx_kl` =
        (log-prob difference)^2 / 2 to the policy that drew the samples.

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
        metrics |= {"policy_loss": loss.detach(), "approx_kl": difference.detach().square() / 2}
        if self.kl_coef:
            kl = policy_kl(self.kl, step, transition)  # (B,)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coef * kl
        return ObjectiveLoss(loss, metrics)
