"""The interface of an objective: a step of the policy in, one loss a sample out.

A loss a sample and never a mean, so that the trainer can divide by the number of samples of the whole
update: then neither the micro-batch nor the number of processes changes a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from deepgen.sampling.sde import Transition, transition

Ground = Literal["trajectory", "clean"]

# B samples; C, h, w latent channels and sides


@dataclass(frozen=True, kw_only=True)
class PolicyStep:
    """B samples at one noise level each, with all that was recorded about them.

    An objective on trajectories reads `next_noisy`, `sigma_next` and the old policy's log-prob; one on
    clean latents reads `clean`, and its `noisy` is `clean` with fresh noise of level sigma.

    Attributes:
        velocity: of the policy that is trained, (B, C, h, w), carries the gradient.
        noisy: the latents it was predicted at, (B, C, h, w).
        sigma: their noise level, (B,) in (0, 1].
        advantages: (B,), positive where a sample should become likelier.
        sigma_next: where the step went, (B,) in [0, sigma).
        next_noisy: what the step drew, in stored precision, (B, C, h, w).
        clean: the finished latents, (B, C, h, w).
        old_log_prob: of `next_noisy` under the policy that drew it, float32 (B,).
        old_mean: mean of that policy's step, float32 (B, C, h, w).
        old_velocity: that policy's velocity at `noisy`, (B, C, h, w).
        reference_velocity: of the reference model at `noisy`, (B, C, h, w); None where no KL is asked for.
        sampler: name of the stochastic sampler (sampling/sde.py).
        eta: its noise.
        sigma_max: the schedule's second sigma, for "flow".
    """

    velocity: Tensor
    noisy: Tensor
    sigma: Tensor
    advantages: Tensor
    sigma_next: Tensor | None = None
    next_noisy: Tensor | None = None
    clean: Tensor | None = None
    old_log_prob: Tensor | None = None
    old_mean: Tensor | None = None
    old_velocity: Tensor | None = None
    reference_velocity: Tensor | None = None
    sampler: str = "cps"
    eta: float = 1.0
    sigma_max: float | None = None

    def __len__(self) -> int:
        return len(self.sigma)

    def need(self, name: str) -> Tensor:
        """A tensor that an objective cannot do without; ValueError names it where it is missing."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"this objective needs {name} of every step, and it was not recorded")
        return value

    def transition(self, velocity: Tensor | None = None) -> Transition:
        """The stochastic step of the policy, or of another velocity at the same latents."""
        return transition(
            self.sampler,
            self.velocity if velocity is None else velocity,
            self.noisy,
            self.sigma,
            self.need("sigma_next"),
            eta=self.eta,
            sigma_max=self.sigma_max,
        )


@dataclass(frozen=True)
class ObjectiveLoss:
    """Losses of B samples and what to watch beside them.

    Attributes:
        per_sample: policy loss plus kl_coef * KL, float32 (B,), carries the gradient.
        metrics: per sample too, float32 (B,) without gradient; `summary` turns them into numbers.
    """

    per_sample: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A frozen config that can be called.

    Attributes:
        works_on: "trajectory" wants recorded steps of a rollout, "clean" finished latents with fresh noise.
        kl_coef: weight of the KL; above 0 every step needs a `reference_velocity`.
        needs: the optional fields of PolicyStep that it reads.
    """

    @property
    def works_on(self) -> Ground:
        """What to train on."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """What has to be recorded."""
        ...

    @property
    def kl_coef(self) -> float:
        """How strongly the reference pulls."""
        ...

    def __call__(self, step: PolicyStep) -> ObjectiveLoss:
        """Losses of the samples. Raises ValueError where something it needs was not recorded."""
        ...


def summary(losses: Sequence[ObjectiveLoss]) -> dict[str, Tensor]:
    """Mean over all samples of every metric, a scalar each; of `ratio` also `ratio_min` and `ratio_max`."""
    names = dict.fromkeys(name for loss in losses for name in loss.metrics)
    numbers: dict[str, Tensor] = {}
    for name in names:
        values = torch.cat([loss.metrics[name] for loss in losses])
        numbers[name] = values.mean()
        if name == "ratio":
            numbers["ratio_min"], numbers["ratio_max"] = values.min(), values.max()
    return numbers
