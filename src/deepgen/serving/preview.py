"""Previews: what a latent looks like, for the price of one small matrix.

A latent's channels are nearly linear in the colours of the patch they stand for. The map is fitted once, when
the engine starts, on made-up pictures that the model's own VAE encodes, so every VAE gets the one that suits
it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from deepgen.models import vae as latent_space

_SIDE = 64  # of the made-up pictures, pixels
_COUNT = 24
_ENLARGE = 4  # pixels of a preview per latent


class LatentPreview:
    """A linear map from latents to colours. `weight` is (C + 1, 3): channels and a constant, to [-1, 1]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @staticmethod
    @torch.no_grad()
    def fit(vae: AutoencoderKL, device: torch.device | str = "cpu") -> LatentPreview:
        """Least squares from latents to the mean colour of their patches."""
        images = _made_up_images()  # (B, 3, H, W)
        latents = latent_space.draw(vae, latent_space.encode(vae, images.to(device)), "mode").float().cpu()
        colours = F.interpolate(images, size=latents.shape[-2:], mode="area")
        rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        targets = colours.permute(0, 2, 3, 1).reshape(-1, 3)
        # A ridge keeps the map finite where a VAE's channels are copies of each other.
        gram = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1])
        return LatentPreview(torch.linalg.solve(gram, rows.T @ targets))

    def __call__(self, latents: Tensor) -> Image.Image:
        """A picture of latents (C, h, w), 4 h high and 4 w wide: half the size of what is drawn."""
        values = latents.detach().float().cpu()
        colours = torch.einsum("chw,ck->hwk", values, self.weight[:-1]) + self.weight[-1]
        pixels = (127.5 * colours + 128).nan_to_num(128).clamp(0, 255).to(torch.uint8).numpy()
        size = (pixels.shape[1] * _ENLARGE, pixels.shape[0] * _ENLARGE)
        return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)


def _made_up_images() -> Tensor:
    """Smooth random colours, half of them with a hard-edged box: (B, 3, H, W) in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_COUNT, 3, 4, 4, generator=generator) * 2 - 1
    images = F.interpolate(coarse, size=(_SIDE, _SIDE), mode="bilinear", align_corners=True)
    boxes = torch.rand(_COUNT, 3, 1, 1, generator=generator) * 2 - 1
    images[: _COUNT // 2, :, _SIDE // 4 : _SIDE // 2, _SIDE // 4 : 3 * _SIDE // 4] = boxes[: _COUNT // 2]
    return images
