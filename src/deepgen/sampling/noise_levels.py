"""Distributions of noise levels in training, and the loss weight of each level.

A density draws u in [0, 1); a table or a continuous shift turns u into sigma (1 = noise) and the timestep
1000 * sigma. Densities and weights are those of Stable Diffusion 3 (arXiv 2403.03206, section 3.1), from
diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor

from deepgen.sampling.schedule import dynamic_mu

Weighting = Literal["none", "logit_normal", "mode", "sigma_sqrt", "cosmap"]


def sample_density(weighting: Weighting, batch: int, generator: torch.Generator | None = None) -> Tensor:
    """u of each sample, (B,) in [0, 1): uniform, logit-normal (mean 0, std 1) or mode-seeking (scale
    1.29).
    """
    return compute_density_for_timestep_sampling(
        weighting, batch, logit_mean=0.0, logit_std=1.0, mode_scale=1.29, generator=generator
    )


def loss_weights(weighting: Weighting, sigma: Tensor) -> Tensor:
    """w(sigma) of the squared error: 1, sigma^-2 (`sigma_sqrt`) or 2 / (pi (1 - 2 sigma + 2 sigma^2))
    (`cosmap`).
    """
    return compute_loss_weighting_for_sd3(weighting, sigma)


def table_levels(scheduler: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Sigma and timestep, (B,) each, from a scheduler's own training table, which starts at pure noise.

    Row floor(1000 u) is taken, so u = 0 is noise alone and the table's static shift applies.
    """
    rows = (u * scheduler.config.num_train_timesteps).long()
    timesteps = torch.linspace(
        1, scheduler.config.num_train_timesteps, scheduler.config.num_train_timesteps
    ).flip(0)
    sigmas = timesteps / scheduler.config.num_train_timesteps
    shift = scheduler.config.shift
    sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return sigmas[rows], sigmas[rows] * scheduler.config.num_train_timesteps


def dynamic_levels(config: Any, u: Tensor, num_tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sigma and timestep, (B,) each, shifted by every sample's own number of target tokens."""
    mu = torch.tensor([dynamic_mu(tokens, config) for tokens in num_tokens], dtype=u.dtype)
    shift = mu.exp() if config.get("time_shift_type", "exponential") == "exponential" else mu
    sigma = shift * u / (1 + (shift - 1) * u)
    return sigma, sigma * config.num_train_timesteps


def sample_losses(
    velocities: Sequence[Tensor],
    clean: Sequence[Tensor],
    noise: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """w * mean((velocity - (noise - clean))^2) of every sample, float32 (B,).

    Sizes may differ between samples; tensors (B, ...) are the quick way for equal ones.
    """
    if isinstance(velocities, Tensor) and isinstance(clean, Tensor) and isinstance(noise, Tensor):
        losses = (velocities.float() - (noise.float() - clean.float())).square().flatten(1).mean(1)
    else:
        losses = torch.stack(
            [
                (velocity.float() - (eps.float() - x.float())).square().mean()
                for velocity, x, eps in zip(velocities, clean, noise, strict=True)
            ]
        )
    return losses if weights is None else losses * weights.to(losses).reshape(-1)


def flow_matching_loss(
    velocities: Sequence[Tensor],
    clean: Sequence[Tensor],
    noise: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """The mean of `sample_losses`: every sample weighs the same, whatever its size."""
    return sample_losses(velocities, clean, noise, weights).mean()
