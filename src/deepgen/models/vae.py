"""Pixels to latents and back, in the DiT's scale: z = (posterior - shift) * scale.

`AutoencoderTiny` has no posterior: what it encodes to is taken for one without spread.

The convolutions of a 16-bit VAE keep their weights with the channels last in memory. oneDNN, on CPUs that
multiply bfloat16, and cuDNN, on tensor cores, compute in that order; PyTorch would otherwise bring each
input and each result from one order to the other. In float32 the full VAE takes equally long either way, and
the small ones save milliseconds (benchmarks/exact_parts.py measures all): such a VAE stays as it is stored,
and what it draws keeps every bit. What comes out is contiguous in any case.
"""

from __future__ import annotations

import logging
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from deepgen.transfer import to_device, to_host

logger = logging.getLogger(__name__)

Posterior = Literal["sample", "mode"]
VAE = AutoencoderKL | AutoencoderTiny

_CHANNELS_LAST_DEVICES = ("cpu", "cuda")
_LAID_OUT = "_deepgen_laid_out"  # on a VAE whose layout is our doing, which is then also ours to take back


def scale_factor(vae: VAE) -> int:
    """Pixels per latent, along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def shift(vae: VAE) -> float:
    """What is subtracted before scaling; a null in the config, as older VAEs have it, is none."""
    return vae.config.get("shift_factor") or 0.0


def is_faster_channels_last(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether convolutions of that number format run faster there with the channels last in memory."""
    return dtype in (torch.bfloat16, torch.float16) and device.type in _CHANNELS_LAST_DEVICES


def lay_out(vae: VAE) -> None:
    """Bring the weights of convolutions into the order that is fast for their number format and device.

    Values stay. `encode` and `decode` call it, so it holds however the VAE was loaded, moved or converted;
    once done it costs a look at the weights. Left alone are weights that hooks bring in layer by layer,
    because sequential and group offload keep the layout of what they were given; quantised ones; and a
    layout of the caller's own.
    """
    convolutions = [layer for layer in vae.modules() if isinstance(layer, nn.Conv2d) and _is_plain(layer)]
    if not convolutions:
        return
    first = convolutions[0].weight
    is_last = is_faster_channels_last(first.dtype, first.device)
    if not is_last and not getattr(vae, _LAID_OUT, False):
        return
    layout = torch.channels_last if is_last else torch.contiguous_format
    with torch.inference_mode(False), torch.no_grad():
        for layer in convolutions:
            if not layer.weight.is_contiguous(memory_format=layout):
                layer.weight.data = layer.weight.data.contiguous(memory_format=layout)
    setattr(vae, _LAID_OUT, is_last)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether its weight is an ordinary tensor that is here to stay."""
    weight = layer.weight
    return type(weight) is nn.Parameter and not weight.is_meta and not hasattr(layer, "_diffusers_hook")


def encode(vae: VAE, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Posterior of images (B, 3, H, W) in [-1, 1], over the VAE's own (B, C, H / 8, W / 8) latents."""
    lay_out(vae)
    encoded = vae.encode(pixels.to(vae.dtype))
    if hasattr(encoded, "latent_dist"):
        found = encoded.latent_dist
        if found.parameters.is_contiguous():
            return found
        return DiagonalGaussianDistribution(found.parameters.contiguous(), deterministic=found.deterministic)
    latents = encoded.latents.contiguous()
    mean_and_log_variance = torch.cat([latents, torch.zeros_like(latents)], dim=1)
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
    lay_out(vae)
    scaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift(vae)
    pixels = vae.decode(scaled, return_dict=False)[0].contiguous()
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
