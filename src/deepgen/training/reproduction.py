"""How well a VAE reproduces pictures: the most that any training of the DiT can reach.

A picture is encoded and decoded, and the peak signal-to-noise ratio of the two says what is lost on the way,
with nothing learnt yet. A VAE that was trained on other pictures loses most of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from deepgen.data.batches import image_pixels
from deepgen.data.example import Example, RowError
from deepgen.data.example_images import ruled_sizes
from deepgen.data.images import ImageError
from deepgen.data.mixture_config import ImageRule
from deepgen.data.pixels import bytes_to_pixels
from deepgen.models import vae as latent_space

PEAK = 255.0


@dataclass(frozen=True)
class Reproduction:
    """A picture and what the VAE makes of it.

    Attributes:
        key: of the row.
        original, reproduced: uint8 (3, H, W), as trained on.
        psnr: of the two, dB.
        seconds: what reading and encoding took, without decoding.
    """

    key: str
    original: Tensor
    reproduced: Tensor
    psnr: float
    seconds: float


def reproduce_examples(
    vae: latent_space.VAE, rule: ImageRule, examples: Sequence[Example], seconds: float
) -> list[Reproduction]:
    """Targets of examples through the VAE, one after the other, for about so many seconds; at least one.

    A picture that cannot be used is left out.
    """
    until = time.monotonic() + seconds
    found: list[Reproduction] = []
    for example in examples:
        if found and time.monotonic() > until:
            break
        began = time.monotonic()
        try:
            size, _ = ruled_sizes(example, rule)
            pixels = image_pixels(example.target, size, rule, example.key, place=0.5)
        except (RowError, ImageError):
            continue
        mean = encode(vae, pixels)
        took = time.monotonic() - began
        reproduced = decode(vae, mean)
        found.append(Reproduction(example.key, pixels, reproduced, psnr(pixels, reproduced), took))
    return found


@torch.no_grad()
def encode(vae: latent_space.VAE, pixels: Tensor) -> Tensor:
    """Scaled latents (1, C, h, w) of uint8 (3, H, W): the posterior's mean."""
    device = next(vae.parameters()).device
    posterior = latent_space.encode(vae, bytes_to_pixels(pixels[None].to(device)))
    return latent_space.draw(vae, posterior, "mode")


@torch.no_grad()
def decode(vae: latent_space.VAE, latents: Tensor) -> Tensor:
    """uint8 (3, H, W) of scaled latents (1, C, h, w)."""
    pixels = latent_space.decode(vae, latents)[0].float().clamp(-1, 1)
    return ((pixels + 1) * (PEAK / 2)).round().to("cpu", torch.uint8)


def psnr(one: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 pictures, dB; infinite where they are equal."""
    error = (one.float() - other.float()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def sheet(pairs: Sequence[Reproduction], columns: int = 8) -> Image.Image:
    """Each picture above what the VAE makes of it, with the PSNR below."""
    tiles = [_tile(pair) for pair in pairs]
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    columns = min(columns, len(tiles))
    page = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), "white")
    for number, tile in enumerate(tiles):
        page.paste(tile, (number % columns * width, number // columns * height))
    return page


def _tile(pair: Reproduction) -> Image.Image:
    images = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in (pair.original, pair.reproduced)]
    factor = max(1, round(160 / max(images[0].size)))  # small ones are enlarged so that one sees them
    images = [image.resize((image.width * factor, image.height * factor), 0) for image in images]
    for image in images:
        image.thumbnail((256, 256))
    width, height = images[0].size
    tile = Image.new("RGB", (width + 8, 2 * height + 26), "white")
    for number, image in enumerate(images):
        tile.paste(image, (4, 4 + number * (height + 2)))
    ImageDraw.Draw(tile).text((4, 2 * height + 8), f"{pair.psnr:.1f} dB", fill="black")
    return tile
