"""ODE sampling: steps from noise to clean latents, for samples that may stand at different noise levels.

A `SamplingState` is a run: B samples at one noise level with their solver. The pipeline has one run and
follows it from first to last step; the server has a run for each image, and each step may batch it with
others; a rollout is a run whose solver is stochastic. The caller supplies the velocity, so a solver never
meets a model and can be tested on an ODE with a known answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from deepgen.sampling.guidance import Guidance
from deepgen.sampling.guided_inputs import GuidedInputs

# B samples of a run, T model calls; C latent channels, h w latent size


class Solver(Protocol):
    """A diffusers scheduler after `set_timesteps`, or what steps like one."""

    timesteps: Any  # what `step` calls its T model calls
    sigmas: Any  # noise levels (T + 1,), the last 0

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *, return_dict: bool) -> Any:
        """A tuple that begins with the latents after the step."""
        ...


class Keeps(Protocol):
    """What a mask keeps of a sample's source, see `masking.KeptLatents`."""

    def keep(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents (C, h, w) after a step to `sigma`, put back on the source's path from `noise`."""
        ...


@dataclass(eq=False, kw_only=True)
class SamplingState:
    """B samples on their way, all at the same noise level.

    Attributes:
        latents: (B, C, h, w).
        timesteps: 1000 * sigma of each model call, float32 (T,).
        solver: the scheduler that follows them, with what it remembers.
        inputs: what the DiT is given besides latents; None where velocities come from elsewhere.
        guidance: with the last difference of both branches; None where there is no guidance to apply.
        has_both: of each model call, whether the negative branch runs where there is one; empty for always.
        is_float32: latents and velocities are handed to the solver in float32: solvers with memory compute
            in what they are given. Euler computes in float32 and keeps latents in the model's precision.
        kept: of each sample, what a mask keeps of its source.
        noise: what the latents began as.
        step: number of the next model call.
        last: latents, number and velocity of the step before.
    """

    latents: Tensor
    timesteps: Tensor
    solver: Any
    inputs: GuidedInputs | None = None
    guidance: Guidance | None = None
    has_both: Sequence[bool] = ()
    is_float32: bool = False
    kept: Sequence[Keeps] | None = None
    noise: Tensor = field(init=False)
    step: int = 0
    last: tuple[Tensor, int, Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.noise = self.latents
        if self.is_float32:
            self.latents = self.latents.float()

    @property
    def timestep(self) -> Tensor:
        """1000 * sigma of the next model call, of each sample, (B,)."""
        return self.timesteps[self.step].expand(len(self.latents))

    @property
    def is_done(self) -> bool:
        """Whether every step is taken."""
        return self.step == len(self.timesteps)

    @property
    def is_guided(self) -> bool:
        """Whether guidance applies to the next step."""
        return self.guidance is not None and self.guidance.guidance_scale > 1

    @property
    def skip_uncond(self) -> bool:
        """Whether there is a negative branch and the next step does not compute it."""
        if self.inputs is None or self.inputs.num_branches == 1:
            return False
        if self.guidance is None or not self.is_guided:
            return True
        return bool(self.has_both) and not self.has_both[self.step] and self.guidance.has_difference

    @property
    def runs_both(self) -> bool:
        """Whether the next step computes both branches of guidance."""
        return self.inputs is not None and self.inputs.num_branches == 2 and not self.skip_uncond

    @property
    def expected_clean(self) -> Tensor | None:
        """The clean latents that the last velocity points at, float32 (B, C, h, w); None before a step."""
        if self.last is None:
            return None
        noisy, step, velocity = self.last
        return noisy.float() - self.solver.sigmas[step].float() * velocity.float()

    def move(self, velocity: Tensor) -> None:
        """Take a step with the velocities (B, C, h, w) of its samples."""
        given = velocity.float() if self.is_float32 else velocity  # (B, C, h, w)
        timestep = self.solver.timesteps[self.step]
        latents = self.solver.step(given, timestep, self.latents, return_dict=False)[0]  # (B, C, h, w)
        if self.kept is not None:
            sigma_next = self.solver.sigmas[self.step + 1]
            rows = zip(self.kept, latents, self.noise, strict=True)
            latents = torch.stack([one.keep(after, before, sigma_next) for one, after, before in rows])
        self.last = self.latents, self.step, velocity
        self.latents, self.step = latents, self.step + 1

    def copy(self) -> SamplingState:
        """A state that can be moved while this one stays as it is."""
        twin = copy.copy(self)
        twin.solver, twin.guidance = _copied(self.solver), copy.copy(self.guidance)
        return twin


State = TypeVar("State", bound=SamplingState)


def step(states: Sequence[State], velocity: Callable[[Sequence[State]], Sequence[Tensor]]) -> None:
    """Take one step of every run.

    Args:
        states: the runs, changed in place.
        velocity: of each run its velocities, (B, C, h, w).
    """
    for state, own in zip(states, velocity(states), strict=True):
        state.move(own)


def _copied(solver: Any) -> Any:
    """A solver that can go on without moving the one it was; it replaces tensors and never writes into them.

    A deep copy would do, and take a tenth of a small model's step.
    """
    twin = copy.copy(solver)
    vars(twin).update({name: list(value) for name, value in vars(twin).items() if isinstance(value, list)})
    return twin
