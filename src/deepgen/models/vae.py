"""Pixels to latents and back, in the DiT's scale: z = (posterior - shift) * scale.

`AutoencoderTiny` has no posterior: what it encodes to is taken for one without spread.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from deepgen.transfer import to_device, to_host

logger = logging.getLogger(__name__)

Posterior = Literal["sample", "mode"]
VAE = AutoencoderKL | AutoencoderTiny


def scale_factor(vae: VAE) -> int:
    """Pixels per latent, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def shift(vae: VAE) -> float:
    """What is subtracted before scaling; a null in the config, as older VAEs have it, is none."""
    return vae.config.get("shift_factor") or 0.0


def encode(vae: VAE, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Posterior of images (B, 3, H, W) in [-1, 1], over the VAE's own (B, C, H / 8, W / 8) latents."""
    encoded = vae.encode(pixels.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist
    mean_and_log_variance = torch.cat([encoded.latents, torch.zeros_like(encoded.latents)], dim=1)
    return DiagonalGaussianDistribution(mean_and_log_variance, deterministic=True)


def draw(
    vae: VAE,
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
        place = latents.device if generator is None else generator.device
        noise = torch.randn(latents.shape, generator=generator, device=place, dtype=torch.float32)
        latents = latents + distribution.std * to_device(noise, latents.device, latents.dtype)
    return (latents - shift(vae)) * vae.config.scaling_factor


def decode(vae: VAE, latents: Tensor, *, is_checked: bool = True) -> Tensor:
    """Pixels (B, 3, 8 h, 8 w), nominally in [-1, 1] and not clamped, of scaled latents (B, C, h, w).

    With `is_checked` the host waits for them and warns of those that are not finite.
    """
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift(vae)
    pixels = vae.decode(scaled, return_dict=False)[0]
    if is_checked:
        warn_of_not_finite(to_host([are_finite(latents, pixels)])[0], latents.dtype, pixels.dtype)
    return pixels


def are_finite(latents: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Whether no value is NaN or infinity, (B, 2): of clean latents (B, C, h, w), and of what was decoded
    of them.

    Without pixels the latents are the picture.
    """
    finite = [
        torch.isfinite(x).flatten(1).all(dim=1) for x in (latents, latents if pixels is None else pixels)
    ]
    return torch.stack(finite, dim=1)


def warn_of_not_finite(
    finite: Tensor, latents_dtype: torch.dtype, pixels_dtype: torch.dtype | None = None
) -> None:
    """Say in the log how many of B pictures hold NaN or infinity, which are drawn black or as noise.

    Args:
        finite: see `are_finite`, on the host.
        latents_dtype: number format of the latents.
        pixels_dtype: of the pixels; None where latents are not decoded.
    """
    count = int((~finite[:, 1]).sum())
    if not count:
        return
    is_early = not bool(finite[:, 0].all())
    part = "the latents" if is_early else "the VAE's pixels"
    cause = (
        "the model's weights are damaged or its training diverged" if is_early else "its weights are damaged"
    )
    logger.warning(
        "%s of %d of %d pictures hold NaN or infinity, so they are not pictures: %s (`deepgen verify` "
        "looks), or %s has too small a range; try dtype bfloat16 or float32",
        part,
        count,
        len(finite),
        cause,
        latents_dtype if is_early else pixels_dtype,
    )
