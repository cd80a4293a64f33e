"""Recorded steps as an objective reads them, with the velocities of policy, old policy and reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepgen.rl.config import RLSettings
from deepgen.rl.objective import Objective, PolicyStep
from deepgen.rl.policy import Policy
from deepgen.rl.rollout_buffer import PolicyBatch, Rollout
from deepgen.training.randomness import normal, stratified
from deepgen.transfer import to_device
from deepgen.types import take_rows

# B images; C, h, w latent channels and sides


class PolicySteps:
    """Makes a `PolicyStep` of a micro-batch.

    Args:
        config: the recipe.
        policy: the model.
        objective: what it has to know of a step.
        device: where it computes.
    """

    def __init__(
        self, config: RLSettings, policy: Policy, objective: Objective, device: torch.device
    ) -> None:
        self.config, self.policy, self.objective, self.device = config, policy, objective, device
        self._old_velocities: dict[int, Tensor] = {}  # by a rollout's first image, (B, levels, C, h, w)

    @torch.no_grad()
    def remember(self, rollouts: Sequence[Rollout]) -> None:
        """Keep what the policy that drew them says at the noise levels they will be trained at.

        Only where an objective on clean latents gets several updates: in the first the policy is the old one.
        """
        self._old_velocities = {}
        if self.objective.works_on != "clean" or self.config.updates_per_rollout == 1:
            return
        for rollout in rollouts:
            everyone = list(range(len(rollout.numbers)))
            velocities = []
            for place in range(self.config.num_levels):
                known = self._recorded(rollout, everyone, place)
                velocities.append(
                    self.policy.velocity(rollout.prompts, rollout.rows, known["noisy"], known["sigma"])
                )
            self._old_velocities[rollout.numbers[0]] = torch.stack(velocities, dim=1)

    def __call__(self, batch: PolicyBatch) -> PolicyStep:
        """The step of B images, whose velocity carries the gradient."""
        rollout, members = batch.rollout, batch.members
        prompts, rows = rollout.prompts_of(members)
        if self.policy.is_condition_trained:
            prompts = self.policy.encode_again(prompts)
        known = self._recorded(rollout, members, batch.place)
        if rollout.numbers[0] in self._old_velocities:
            known["old_velocity"] = _some(self._old_velocities[rollout.numbers[0]], members, batch.place)
        noisy, sigma = known["noisy"], known["sigma"]  # (B, C, h, w), (B,)
        velocity = self.policy.velocity(prompts, rows, noisy, sigma)  # (B, C, h, w)
        if self.objective.kl_coef:
            with torch.no_grad():
                known["reference_velocity"] = self.policy.velocity(
                    prompts, rows, noisy, sigma, by_reference=True
                )
        return PolicyStep(
            velocity=velocity,
            advantages=to_device(batch.advantages, self.device),
            sampler=self.config.sampler,
            eta=self.config.eta,
            sigma_max=rollout.trajectory.sigma_max,
            **known,
        )

    def _recorded(self, rollout: Rollout, members: Sequence[int], place: int) -> dict[str, Tensor]:
        """Fields of a PolicyStep: of a recorded step, or clean latents at a fresh noise level."""
        trajectory = rollout.trajectory
        if self.objective.works_on == "trajectory":
            known = {
                "noisy": _some(trajectory.noisy, members, place),
                "next_noisy": _some(trajectory.next_noisy, members, place),
                "old_log_prob": _some(trajectory.log_prob, members, place),
                "sigma": trajectory.sigma[place].expand(len(members)),
                "sigma_next": trajectory.sigma_next[place].expand(len(members)),
            }
            if trajectory.mean is not None:
                known["old_mean"] = _some(trajectory.mean, members, place)
            return known
        clean = take_rows(trajectory.clean, members)
        own = [rollout.numbers[n] for n in members]
        shape = clean.shape[1:]
        noise = torch.stack([normal(self.config.seed, f"fresh noise {place}", n, shape) for n in own])
        levels = torch.tensor([stratified(self.config.seed, n, self.config.num_levels)[place] for n in own])
        renoise: Any = getattr(self.objective, "renoise")  # noqa: B009  of every objective on clean latents
        noisy, sigma = renoise(clean, to_device(noise, clean.device), to_device(levels, clean.device))
        return {"noisy": noisy.to(clean.dtype), "sigma": sigma, "clean": clean}


def _some(recorded: Tensor, members: Sequence[int], place: int) -> Tensor:
    """Rows of some images (B, ...) at a recorded step, of (N, K, ...)."""
    return take_rows(recorded[:, place], members)
