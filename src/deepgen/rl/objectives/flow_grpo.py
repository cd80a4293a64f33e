"""Flow-GRPO (Liu et al. 2025, arXiv 2505.05470): PPO on the steps of a stochastic sampler.

The ratio of a step is exp(new log-prob - old log-prob) of the latents that were drawn, both scored in
float32 from the stored latents, so it is exactly 1 before the first update.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepgen.rl.objective import PolicyStep
from deepgen.rl.policy_gradient import PolicyGradient
from deepgen.sampling.sde import Transition


@dataclass(frozen=True, kw_only=True)
class FlowGRPO(PolicyGradient):
    """rho = exp(new - old log-prob)."""

    def ratio(self, step: PolicyStep, transition: Transition, difference: Tensor) -> Tensor:
        """The ratio of the two densities, (B,)."""
        return difference.exp()


objective = FlowGRPO
