"""GRPO-Guard (Wang et al. 2025, arXiv 2510.22319): Flow-GRPO with ratios that are centred and equally wide.

With a Gaussian step of standard deviation a and a policy whose mean moved by D, the log-ratio is
eps * D / a - D^2 / (2 a^2), where eps is the noise that was drawn. It is biased below 0 and its width changes
with the noise level, so one clip range fits no two steps. Adding the bias back and multiplying with a leaves
eps * D at every level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deepgen.rl.clipping import ClipRange, check_clip_range, clipped_loss
from deepgen.rl.kl import KL, check_kl, policy_kl
from deepgen.rl.objective import Ground, ObjectiveLoss, PolicyStep

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class GRPOGuard:
    """max(-A rho, -A clip(rho)) + kl_coef * KL, with the ratio of a step normalised.

    Let d = new - old log-prob, m = mean over the picture of (new mean - old mean)^2 and
    a = sqrt(-dt) * kl_std, the noise that "flow" adds.

    - "paper": rho = exp((d + m / (2 a^2)) * a), and the policy loss is divided by -dt, because a step's
      mean moves by dt times what the velocity moves, and long steps would otherwise pull harder.
    - "flow_factory": rho = exp(d * a + m / (2 a)) with a of at least 1e-8, and no division.

    Attributes:
        variant: "paper" or "flow_factory".
        clip_range: as in flow_grpo.
        kl_coef: weight of the KL against the reference; 0 needs no reference.
        kl: "velocity" or "mean" (rl/kl.py).
        average: "sample" takes m, dt and kl_std of each sample. "batch" takes their means over the samples
            that came together, as the original does in "paper", so a loss depends on its batch-mates.
        is_any_sampler_allowed: only "flow" has a standard deviation of which a is made, so others are
            refused unless this is set, as the original never refuses.
    """

    variant: Literal["paper", "flow_factory"] = "paper"
    clip_range: ClipRange = 1e-4
    kl_coef: float = 5e-7
    kl: KL = "velocity"
    average: Literal["sample", "batch"] = "sample"
    is_any_sampler_allowed: bool = False

    def __post_init__(self) -> None:
        """Impossible settings fail here."""
        if self.variant not in ("paper", "flow_factory"):
            raise ValueError(f"unknown variant {self.variant!r} of grpo_guard; known: paper, flow_factory")
        if self.average not in ("sample", "batch"):
            raise ValueError(f"unknown average {self.average!r} of grpo_guard; known: sample, batch")
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
        return ("sigma_next", "next_noisy", "old_log_prob", "old_mean", *reference)

    def __call__(self, step: PolicyStep) -> ObjectiveLoss:
        """Losses of B samples; metrics as in flow_grpo.

        Raises:
            ValueError: the sampler is not "flow", or something was not recorded.
        """
        if step.sampler != "flow" and not self.is_any_sampler_allowed:
            raise ValueError(f"grpo_guard normalises the noise of sampler 'flow', got {step.sampler!r}")
        transition = step.transition()
        # fp32, as in flow_grpo: the ratio is clipped far below what bf16 can tell apart.
        difference = transition.log_prob(step.need("next_noisy")) - step.need("old_log_prob").float()
        moved = self._typical((transition.mean - step.need("old_mean").float()).square().flatten(1).mean(1))
        length, std = self._typical(transition.sqrt_dt), self._typical(transition.kl_std)
        if self.variant == "paper":
            added = length * std
            ratio = ((difference + moved / (2 * added.square())) * added).exp()
        else:
            added = (length * std).clamp(min=_TINY)
            ratio = (difference * added + moved / (2 * added)).exp()
        loss, metrics = clipped_loss(ratio, step.advantages, self.clip_range)
        if self.variant == "paper":
            loss = loss / length.square()
        metrics |= {"policy_loss": loss.detach(), "approx_kl": difference.detach().square() / 2}
        if self.kl_coef:
            kl = policy_kl(self.kl, step, transition)
            metrics["kl"] = kl.detach()
            loss = loss + self.kl_coef * kl
        return ObjectiveLoss(loss, metrics)

    def _typical(self, values: Tensor) -> Tensor:
        """(B,) of (B,) or (B, 1, 1, 1): each sample's own value, or for all of them their mean."""
        values = values.flatten()
        return values.mean().expand_as(values) if self.average == "batch" else values


objective = GRPOGuard
