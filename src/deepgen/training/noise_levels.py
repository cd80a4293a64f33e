"""Noise levels of the samples of a training step: stratified over the whole global batch.

The densities are those of Stable Diffusion 3 (arXiv 2403.03206, section 3.1), as functions of a uniform
number, so that one in each stratum can be drawn whatever the density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepgen.sampling.noise_levels import Weighting, dynamic_levels, loss_weights, table_levels
from deepgen.training.randomness import generator, stratified

_MODE_SCALE = 1.29


@dataclass(frozen=True, kw_only=True)
class NoiseLevelConfig:
    """Density and weight of noise levels; `is_stratified` off draws every sample by itself, as the
    original does.

    Attributes:
        weighting: how often a noise level is drawn, and what its loss weighs.
        is_stratified: the samples of a step share out the levels evenly.
    """

    weighting: Weighting = "none"
    is_stratified: bool = True


@dataclass(frozen=True)
class NoiseLevels:
    """Of the samples of a micro-batch, (B,) float32 each."""

    sigma: Tensor
    timestep: Tensor
    weights: Tensor


def noise_levels(
    config: NoiseLevelConfig,
    scheduler: Any,
    seed: int,
    samples: Sequence[int],
    global_batch_size: int,
    num_tokens: Sequence[int],
) -> NoiseLevels:
    """Levels of some samples of a step.

    Args:
        config: density and weighting.
        scheduler: the model's; its table or, where it shifts dynamically, its formula gives sigma.
        seed: of the run.
        samples: their numbers in the run; sample n is number n % global_batch_size of step n //
        global_batch_size.
        global_batch_size: samples in a step.
        num_tokens: DiT tokens of each sample's target, for a dynamic shift.
    """
    places = [divmod(sample, global_batch_size) for sample in samples]
    if config.is_stratified:
        steps = {step: stratified(seed, step, global_batch_size) for step, _ in places}
        uniform = np.array([steps[step][place] for step, place in places])
    else:
        uniform = np.array([generator(seed, "timestep", sample).random() for sample in samples])
    u = torch.from_numpy(density(config.weighting, uniform)).float()
    if scheduler.config.get("use_dynamic_shifting", False):
        sigma, timestep = dynamic_levels(scheduler.config, u, num_tokens)
    else:
        sigma, timestep = table_levels(scheduler, u)
    return NoiseLevels(sigma, timestep, loss_weights(config.weighting, sigma))


def density(weighting: Weighting, uniform: np.ndarray) -> np.ndarray:
    """Uniform numbers in [0, 1) carried over to the density's; float64, same shape, below 1."""
    if weighting == "logit_normal":
        normal = math.sqrt(2) * torch.erfinv(torch.from_numpy(2 * np.maximum(uniform, 1e-12) - 1)).numpy()
        u = 1 / (1 + np.exp(-normal))
    elif weighting == "mode":
        u = 1 - uniform - _MODE_SCALE * (np.cos(math.pi * uniform / 2) ** 2 - 1 + uniform)
    else:
        u = uniform
    return np.minimum(u, 1 - 1e-7)
