"""Pixels to latents and back, in the DiT's scale: z = (posterior - shift) * scale."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

Posterior = Literal["sample", "mode"]


def encode(
    vae: AutoencoderKL,
    pixels: Tensor,
    posterior: Posterior = "sample",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Scaled latents of images.

    Args:
        vae: the autoencoder.
        pixels: (B, 3, H, W) in [-1, 1].
        posterior: draw from the posterior, as in training and in the original's inference, or take its mode.
        generator: source of the draw.

    Returns:
        (B, C, H / 8, W / 8).
    """
    distribution = vae.encode(pixels.to(vae.dtype)).latent_dist
    if posterior == "mode":
        return scale(vae, distribution.mode())
    mean = distribution.mean
    noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return scale(vae, mean + distribution.std * noise)


def scale(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The VAE's own latents in the DiT's scale."""
    return (latents - vae.config.shift_factor) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pixels (B, 3, 8 h, 8 w), nominally in [-1, 1] and not clamped, of scaled latents (B, C, h, w)."""
    latents = latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return vae.decode(latents, return_dict=False)[0]
