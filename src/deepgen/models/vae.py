"""Pixels to latents and back, in the DiT's scale: z = (posterior - shift) * scale."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Posterior = Literal["sample", "mode"]


def encode(vae: AutoencoderKL, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Posterior of images (B, 3, H, W) in [-1, 1], over the VAE's own (B, C, H / 8, W / 8) latents."""
    return vae.encode(pixels.to(vae.dtype)).latent_dist


def draw(
    vae: AutoencoderKL,
    distribution: DiagonalGaussianDistribution,
    posterior: Posterior = "sample",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Latents (B, C, h, w) in the DiT's scale.

    Training and the original's inference sample the posterior, references included. `"mode"` takes its mean
    instead.
    """
    if posterior not in ("sample", "mode"):
        raise ValueError(f"unknown posterior {posterior!r}; known: sample, mode")
    latents = distribution.mean
    if posterior == "sample":
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
        latents = latents + distribution.std * noise.to(latents.dtype)
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels (B, 3, 8 h, 8 w), nominally in [-1, 1] and not clamped, of scaled latents (B, C, h, w)."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return vae.decode(latents, return_dict=False)[0]
