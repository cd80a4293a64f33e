"""A rollout: from noise to pictures, with the steps that will be trained on the record.

Any callable is a policy here; the stage brings the model. Steps of the window are stochastic and have a
log-prob; the others follow the ODE. What was drawn is rounded to the stored precision first and scored then,
so that training can score it again from the record and finds the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepgen.diffusion.sde import check_sampler, transition
from deepgen.rl.windows import Window

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
        sampler: name of the stochastic sampler (diffusion/sde.py).
        eta: its noise.
        keeps: "mean" and "velocity" of the recorded steps.

    Raises:
        ValueError: the sampler is unknown, or eta is out of its range.
    """
    check_sampler(sampler, eta)
    sigmas = sigmas.float().to(noise.device)
    sigma_max = float(sigmas[1])
    record: dict[str, list[Tensor]] = {name: [] for name in ("noisy", "next_noisy", "log_prob", *keeps)}
    noisy = noise
    for number in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[number].expand(len(noise)), sigmas[number + 1].expand(len(noise))
        predicted = velocity(noisy, sigma)
        is_stochastic = number in window.stochastic
        step = transition(
            sampler,
            predicted,
            noisy,
            sigma,
            sigma_next,
            eta=eta if is_stochastic else 0.0,
            sigma_max=sigma_max,
        )
        if is_stochastic:
            next_noisy = step.sample(step_noise(number).to(noise.device), noise.dtype)
        else:
            next_noisy = step.mean.to(noise.dtype)
        if number in window.trained:
            known = {
                "noisy": noisy,
                "next_noisy": next_noisy,
                "log_prob": step.log_prob(next_noisy),
                "mean": step.mean,
                "velocity": predicted,
            }
            for name, kept in record.items():
                kept.append(known[name])
        noisy = next_noisy
    index = torch.tensor(window.trained, dtype=torch.long, device=sigmas.device)
    empty = noise.new_empty(len(noise), 0, *noise.shape[1:])
    shaped = {"log_prob": empty.new_empty(len(noise), 0, dtype=torch.float32)}
    return Trajectory(
        clean=noisy,
        steps=window.trained,
        sigma=sigmas[index],
        sigma_next=sigmas[index + 1],
        sigma_max=sigma_max,
        **{
            name: torch.stack(kept, dim=1) if kept else shaped.get(name, empty)
            for name, kept in record.items()
        },
    )
