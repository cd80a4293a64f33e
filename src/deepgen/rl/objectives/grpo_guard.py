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

from deepgen.rl.objective import PolicyStep
from deepgen.rl.policy_gradient import PolicyGradient
from deepgen.sampling.sde import Transition

_TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class GRPOGuard(PolicyGradient):
    """The ratio of a step, normalised.

    Let d = new - old log-prob, m = mean over the picture of (new mean - old mean)^2 and
    a = sqrt(-dt) * kl_std, the noise that "flow" adds.

    - "paper": rho = exp((d + m / (2 a^2)) * a), and the policy loss is divided by -dt, because a step's
      mean moves by dt times what the velocity moves, and long steps would otherwise pull harder.
    - "flow_factory": rho = exp(d * a + m / (2 a)) with a of at least 1e-8, and no division.

    Attributes:
        variant: "paper" or "flow_factory".
        average: "sample" takes m, dt and kl_std of each sample. "batch" takes their means over the samples
            that came together, as the original does in "paper", so a loss depends on its batch-mates.
        is_any_sampler_allowed: only "flow" has a standard deviation of which a is made, so others are
            refused unless this is set, as the original never refuses.
    """

    variant: Literal["paper", "flow_factory"] = "paper"
    average: Literal["sample", "batch"] = "sample"
    is_any_sampler_allowed: bool = False

    def __post_init__(self) -> None:
        """Impossible settings fail here."""
        if self.variant not in ("paper", "flow_factory"):
            raise ValueError(f"unknown variant {self.variant!r} of grpo_guard; known: paper, flow_factory")
        if self.average not in ("sample", "batch"):
            raise ValueError(f"unknown average {self.average!r} of grpo_guard; known: sample, batch")
        super().__post_init__()

    @property
    def needs(self) -> tuple[str, ...]:
        """What a rollout has to record."""
        return (*super().needs, "old_mean")

    def ratio(self, step: PolicyStep, transition: Transition, difference: Tensor) -> Tensor:
        """The normalised ratio, (B,).

        Raises:
            ValueError: the sampler is not "flow", or the old mean was not recorded.
        """
        if step.sampler != "flow" and not self.is_any_sampler_allowed:
            raise ValueError(f"grpo_guard normalises the noise of sampler 'flow', got {step.sampler!r}")
        moved = self._typical((transition.mean - step.need("old_mean").float()).square().flatten(1).mean(1))
        added = self._typical(transition.sqrt_dt) * self._typical(transition.kl_std)  # (B,)
        if self.variant == "paper":
            return ((difference + moved / (2 * added.square())) * added).exp()
        added = added.clamp(min=_TINY)
        return (difference * added + moved / (2 * added)).exp()

    def step_weight(self, transition: Transition) -> Tensor | float:
        """1 / -dt in "paper"."""
        return 1 / self._typical(transition.sqrt_dt).square() if self.variant == "paper" else 1.0

    def _typical(self, values: Tensor) -> Tensor:
        """(B,) of (B,) or (B, 1, 1, 1): each sample's own value, or for all of them their mean."""
        values = values.flatten()
        return values.mean().expand_as(values) if self.average == "batch" else values


objective = GRPOGuard
