"""What an edit keeps of its source: everything outside a mask, or whatever it left as it was.

Under a mask, the latents outside are put back at every step on the straight path from noise to the source, so
that what is drawn inside fits to it; at the end the source's own pixels are laid over the result. The model
knows nothing of masks. Without one, what changed can be found once the picture is drawn: where it differs
from what the VAE alone makes of the source. The pipeline and the server's sampler, which changes its batch
between steps, share this.
"""

from __future__ import annotations

import math
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
        clean = _latents(self.source, vae, size, dtype, device, encode)
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


# Differences of pixels in [0, 1]: a change has one of 25 of 255 somewhere and reaches as far as there are 10
# of 255, like an object with its shadow; what is nowhere that strong is a detail drawn a little otherwise. Of
# an edit that changes little, a quarter of what its strongest half percent differs is the bound of both.
_CHANGE, _REACH, _SHARE_OF_MOST, _MOST = 0.1, 0.04, 0.25, 0.995


@dataclass(frozen=True)
class UnchangedPixels:
    """What the result keeps where an edit left its source as it was.

    Attributes:
        source: (3, H, W), uint8, in the size of the result.
        copy: (3, h, w) in [-1, 1], what the VAE makes of the source at the size that is drawn: its losses are
            no change.
        unit: pixels a latent.
    """

    source: Tensor
    copy: Tensor
    unit: int

    @staticmethod
    def of(
        source: Tensor,
        vae: AutoencoderKL,
        size: Size,
        dtype: torch.dtype,
        device: torch.device,
        encode: Callable[[Tensor], Any] | None = None,
    ) -> UnchangedPixels:
        """Of a source (3, H, W), uint8; the other arguments are those of `KeptPixels.latents`."""
        clean = _latents(source, vae, size, dtype, device, encode)
        copy = latent_space.decode(vae, clean[None], is_checked=False)[0].float()
        return UnchangedPixels(source, copy, size[0] // clean.shape[-2])

    def blend(self, drawn: Tensor) -> Blend:
        """How the result is put together of the source and of what was drawn, (3, h, w) in [-1, 1]."""
        weight = changed_weight(drawn, self.copy, self.unit)
        size = self.source.shape[-2:]
        if weight.shape != size:
            weight = F.interpolate(weight[None, None], size=size, mode="bilinear")[0, 0]
        return Blend(self.source, weight)


@dataclass(frozen=True)
class Blend:
    """A source and where it is drawn over.

    Attributes:
        source: (3, H, W), uint8.
        weight: of what was drawn, (H, W) in [0, 1]; 0 keeps the source exactly.
    """

    source: Tensor
    weight: Tensor

    def paste(self, pixels: Tensor, channels: slice = slice(None)) -> Tensor:
        """The result, (C, H, W), of what was drawn in those channels, brought to the source's size."""
        source = bytes_to_pixels(to_device(self.source[channels], pixels.device))
        weight = to_device(self.weight, pixels.device)
        return torch.where(weight > 0, source.lerp(pixels.float(), weight), source)


def lay_over(
    drawn: Tensor, size: Size | None, unchanged: UnchangedPixels | None, masked: KeptPixels | None
) -> Tensor:
    """The result of pixels that were drawn, (3, h, w): brought to this (height, width), if any, and with what
    it keeps.
    """
    result = drawn if size is None else resize_pixels(drawn, size)
    if unchanged is not None:
        result = unchanged.blend(drawn).paste(result)
    return result if masked is None else masked.paste(result)


def changed_weight(drawn: Tensor, copy: Tensor, unit: int) -> Tensor:
    """How far each pixel is a drawn one rather than the source's, (h, w) in [0, 1].

    1 wherever the two differ by a change, smoothed over a quarter of a latent's pixels, and half a latent
    further; beyond that it falls to 0 within half a latent.

    Args:
        drawn: (3, h, w) in [-1, 1].
        copy: of the source, likewise.
        unit: pixels a latent.
    """
    difference = (drawn.float() - copy.to(drawn.device)).clamp(-2, 2).abs().amax(0) / 2
    smooth = _blurred(difference, unit / 4)
    most = smooth.flatten().kthvalue(max(1, int(_MOST * smooth.numel()))).values
    strong, weak = (smooth > torch.clamp(_SHARE_OF_MOST * most, max=level) for level in (_CHANGE, _REACH))
    is_changed = _reached(strong, weak, max(1, unit // 2))
    margin = max(1, unit // 2)
    grown = F.max_pool2d(is_changed[None].float(), 2 * margin + 1, stride=1, padding=margin)[0]
    soft = _blurred(grown, unit / 4)
    return ((soft - 0.03) / 0.94).clamp(0, 1)


def _reached(strong: Tensor, weak: Tensor, block: int) -> Tensor:
    """Weak places (h, w) that strong ones are joined to by others, in blocks of so many pixels."""
    height, width = weak.shape
    size = -(-height // block), -(-width // block)
    found, allowed = (F.adaptive_max_pool2d(x[None].float(), size) for x in (strong, weak))
    for _ in range(sum(size)):
        grown = F.max_pool2d(found, 3, stride=1, padding=1) * allowed
        if torch.equal(grown, found):
            break
        found = grown
    return weak & (F.interpolate(found[None], (height, width))[0, 0] > 0)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Values (h, w) under a Gaussian of this deviation in pixels."""
    reach = math.ceil(2 * sigma)
    at = torch.arange(-reach, reach + 1, device=values.device)
    kernel = torch.exp(-(at / sigma).square() / 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(values[None, None], (reach, reach, reach, reach), mode="replicate")
    with torch.autocast(values.device.type, enabled=False):  # differences of 1 in 255 need all digits
        return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]


def _latents(
    source: Tensor,
    vae: AutoencoderKL,
    size: Size,
    dtype: torch.dtype,
    device: torch.device,
    encode: Callable[[Tensor], Any] | None,
) -> Tensor:
    """Latents (C, h, w) of a source (3, H, W), uint8, at the size that is drawn."""
    is_whole = source.shape[1:] == size
    channels = (bytes_to_pixels(channel[None]) for channel in source)  # one after the other
    pixels = torch.cat([channel if is_whole else resize_pixels(channel, size) for channel in channels])
    encode = encode or (lambda pixels: latent_space.encode(vae, to_device(pixels[None], device)))
    return latent_space.draw(vae, encode(pixels), "mode")[0].to(dtype)
