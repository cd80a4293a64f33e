"""Sampling of a rollout: from noise to pictures, recording the steps that will be trained.

Any callable is a policy here; the caller brings the model. Steps of the window are stochastic and have a
log-prob; the others follow the ODE. What was drawn is rounded to the stored precision first and scored then,
so that training can score it again from the record and finds the same number. The loop is that of every
drawing (`ode.py`), with a solver that draws and keeps a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgen.sampling import ode
from deepgen.sampling.sde import check_sampler, transition
from deepgen.sampling.windows import Window
from deepgen.transfer import to_device

Velocity = Callable[[Tensor, Tensor], Tensor]
StepNoise = Callable[[int], Tensor]

# B images, K trained steps; C, h, w latent channels and sides


@dataclass(frozen=True)
class Trajectory:
    """What is kept of a rollout.

    Attributes:
        clean: finished latents (B, C, h, w) in the stored precision.
        steps: numbers of the K steps on the record.
        sigma, sigma_next: their noise levels, float32 (K,).
        noisy, next_noisy: latents before and after each, (B, K, C, h, w) in the stored precision.
        log_prob: of what was drawn, float32 (B, K).
        mean, velocity: of the policy at each, float32 (B, K, C, h, w), where asked for.
        sigma_max: the schedule's second sigma.
    """

    clean: Tensor
    steps: tuple[int, ...]
    sigma: Tensor
    sigma_next: Tensor
    noisy: Tensor
    next_noisy: Tensor
    log_prob: Tensor
    sigma_max: float
    mean: Tensor | None = None
    velocity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.clean)


@torch.no_grad()
def roll_out(
    velocity: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    window: Window,
    step_noise: StepNoise,
    *,
    sampler: str = "cps",
    eta: float = 1.0,
    keeps: Sequence[str] = (),
) -> Trajectory:
    """Follow a policy from noise to clean latents.

    Args:
        velocity: (noisy (B, C, h, w), sigma (B,)) to velocity (B, C, h, w).
        noise: where the trajectories begin, in the precision they are stored in.
        sigmas: noise levels, (T + 1,), from 1 to 0.
        window: which of the T steps are stochastic, and which go on the record; where none does, the clean
            latents are all there is.
        step_noise: standard normal noise (B, C, h, w) of a step.
        sampler: name of the stochastic sampler (sampling/sde.py).
        eta: its noise.
        keeps: "mean" and "velocity" of the recorded steps.

    Raises:
        ValueError: the sampler is unknown, or eta is out of its range.
    """
    sigmas = sigmas.float()
    solver = StochasticSolver(
        sigmas, window, step_noise, sampler=sampler, eta=eta, keeps=keeps, device=noise.device
    )
    state = ode.SamplingState(latents=noise, timesteps=1000 * solver.sigmas[:-1], solver=solver)
    while not state.is_done:
        sigma = solver.sigmas[state.step].expand(len(noise))  # (B,)
        ode.step([state], lambda states: [velocity(states[0].latents, sigma)])  # noqa: B023  called at once
    return solver.trajectory(state.latents)


class StochasticSolver:
    """A solver whose steps of a window draw noise, with a record of those that will be trained.

    Args:
        sigmas: noise levels, float32 (T + 1,), from 1 to 0.
        window: see `roll_out`.
        step_noise: see `roll_out`.
        sampler: see `roll_out`.
        eta: see `roll_out`.
        keeps: see `roll_out`.
        device: where the steps are taken; default the levels'.

    Raises:
        ValueError: the sampler is unknown, or eta is out of its range.
    """

    def __init__(
        self,
        sigmas: Tensor,
        window: Window,
        step_noise: StepNoise,
        *,
        sampler: str = "cps",
        eta: float = 1.0,
        keeps: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> None:
        check_sampler(sampler, eta)
        self.sigmas, self.timesteps = to_device(sigmas, device), range(len(sigmas) - 1)
        self._levels = sigmas.cpu()
        self._window, self._step_noise, self._sampler, self._eta = window, step_noise, sampler, eta
        self._sigma_max = float(self._levels[1])
        names = ("noisy", "next_noisy", "log_prob", *keeps)
        self._record: dict[str, list[Tensor]] = {name: [] for name in names}

    def step(
        self, model_output: Tensor, timestep: int, sample: Tensor, *, return_dict: bool = False
    ) -> tuple[Tensor]:
        """Latents after the step of this number, (B, C, h, w) in the precision of those before."""
        is_stochastic = timestep in self._window.stochastic
        made = transition(
            self._sampler,
            model_output,
            sample,
            self.sigmas[timestep].expand(len(sample)),  # (B,)
            self.sigmas[timestep + 1].expand(len(sample)),  # (B,)
            eta=self._eta if is_stochastic else 0.0,
            sigma_max=self._sigma_max,
        )
        if is_stochastic:
            next_noisy = made.sample(to_device(self._step_noise(timestep), sample.device), sample.dtype)
        else:
            next_noisy = made.mean.to(sample.dtype)  # (B, C, h, w)
        if timestep in self._window.trained:
            known = {
                "noisy": sample,
                "next_noisy": next_noisy,
                "log_prob": made.log_prob(next_noisy),  # (B,)
                "mean": made.mean,
                "velocity": model_output,
            }
            for name, kept in self._record.items():
                kept.append(known[name])
        return (next_noisy,)

    def trajectory(self, clean: Tensor) -> Trajectory:
        """The record of a run that ended with these latents, (B, C, h, w)."""
        index = torch.tensor(self._window.trained, dtype=torch.long)
        empty = {name: clean.new_empty(len(clean), 0, *clean.shape[1:]) for name in self._record}
        empty["log_prob"] = clean.new_empty(len(clean), 0, dtype=torch.float32)
        return Trajectory(
            clean=clean,
            steps=self._window.trained,
            sigma=to_device(self._levels[index], self.sigmas.device),  # (K,)
            sigma_next=to_device(self._levels[index + 1], self.sigmas.device),  # (K,)
            sigma_max=self._sigma_max,
            **{
                name: torch.stack(kept, dim=1) if kept else empty[name]  # (B, K, ...)
                for name, kept in self._record.items()
            },
        )
