"""Masked edits: everything outside the mask is kept.

At every step the latents outside the mask are put back on the straight path from noise to the source, so that
what is drawn inside fits to it; at the end the source's own pixels are laid over the result. The model knows
nothing of masks. The pipeline and the server's sampler, which changes its batch between steps, share this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from deepgen.data.masks import check_mask
from deepgen.data.pixels import bytes_to_pixels, resize_pixels, to_bytes
from deepgen.models import vae as latent_space
from deepgen.sampling.interpolation import interpolate
from deepgen.transfer import to_device

Size = tuple[int, int]  # (height, width), pixels


@dataclass(frozen=True)
class KeptLatents:
    """What the steps keep.

    Attributes:
        clean: the source's latents, (C, h, w).
        may_change: boolean (h, w).
    """

    clean: Tensor
    may_change: Tensor

    def keep(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Latents (C, h, w) after a step to `sigma`, put back on the source's path from `noise`."""
        on_path = interpolate(self.clean[None], noise[None], to_device(sigma[None], noise.device))[0]
        return torch.where(self.may_change, latents, on_path.to(latents.dtype))


@dataclass(frozen=True)
class KeptPixels:
    """What the result keeps, in the size it has.

    Attributes:
        source: (3, H, W), uint8: a quarter of what floats would take while the picture is drawn.
        may_change: boolean (H, W).
    """

    source: Tensor
    may_change: Tensor

    @staticmethod
    def of(image: Image.Image, mask: Image.Image, size: Size) -> KeptPixels:
        """Of a source and its mask (255 where it may change), at the result's size.

        Raises:
            ValueError: the mask is of another size, or allows nothing to change.
        """
        check_mask(mask, image)
        height, width = size
        marks = mask.convert("L").resize((width, height), Image.Resampling.NEAREST)
        may_change = torch.frombuffer(bytearray(marks.tobytes()), dtype=torch.uint8).view(height, width) > 127
        if not may_change.any():
            raise ValueError("mask allows no pixel to change; make transparent what should be drawn anew")
        return KeptPixels(to_bytes(image, size), may_change)

    def latents(
        self,
        vae: AutoencoderKL,
        size: Size,
        dtype: torch.dtype,
        device: torch.device,
        encode: Callable[[Tensor], Any] | None = None,
    ) -> KeptLatents:
        """The same for the steps, at the size (height, width) that is drawn.

        `encode` gives the VAE's posterior of the source, (3, H, W), where it may be known.
        """
        is_whole = self.source.shape[1:] == size
        channels = (bytes_to_pixels(channel[None]) for channel in self.source)  # one after the other
        source = torch.cat([channel if is_whole else resize_pixels(channel, size) for channel in channels])
        encode = encode or (lambda pixels: latent_space.encode(vae, to_device(pixels[None], device)))
        clean = latent_space.draw(vae, encode(source), "mode")[0].to(dtype)
        # A latent that covers one pixel which may change may change.
        mask = self.may_change[None, None].float()
        if mask.shape[-2:] != size:
            mask = F.interpolate(mask, size=size, mode="nearest-exact")
        factor = size[0] // clean.shape[-2]
        return KeptLatents(clean, to_device(F.max_pool2d(mask, factor)[0, 0] > 0, clean.device))

    def paste(self, pixels: Tensor, channels: slice = slice(None)) -> Tensor:
        """The result, (C, H, W), with the source's pixels of those channels wherever it may not change."""
        source = bytes_to_pixels(to_device(self.source[channels], pixels.device))
        return torch.where(to_device(self.may_change, pixels.device), pixels, source)
