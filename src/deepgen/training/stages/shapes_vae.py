"""The flat model's VAE: crops of crowded scenes, L1 and squared error, a very small KL weight.

The encoder's convolutions see no more than an object and its surroundings, so most steps use 48-pixel crops,
a quarter of the cost; only the last share sees whole pictures. Latents are disturbed on their way to the
decoder: it learns to draw clean pictures of what a small DiT will give it, and the encoder to keep different
scenes apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.shapes.render import render_array
from deepgen.shapes.scene import CANVAS, sample_scene
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes


@dataclass(frozen=True, kw_only=True)
class ShapesVAEConfig(TrainConfig):
    """Batch and crops; the KL weight is small because the DiT needs sharp latents more than Gaussian ones.

    Attributes:
        batch_size: pictures of a step.
        crop: side of the crops, pixels.
        kl_weight: of the KL term of the loss.
    """

    num_steps: int = 2200
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-3, muon_lr=0.02, decay_share=0.5))
    ema_decay: float = 0.995
    batch_size: int = 16
    crop: int = 48
    whole_share: float = 0.03  # the last share of the run, on whole pictures
    kl_weight: float = 1e-4
    latent_noise: float = 0.1  # largest noise on the latents, in their standard deviations

    def build(self, processes: Processes) -> ShapesVAE:
        """The stage."""
        processes.require_one(type(self).__name__)
        return ShapesVAE(self)


class ShapesVAE:
    """Reconstruction."""

    def __init__(self, config: ShapesVAEConfig):
        self.config = config
        self.modules: nn.Module = AutoencoderKL(**DEEPGEN_SHAPES.vae)

    def batches(self, step: int) -> list:
        """The one batch of a step."""
        return [self.batch(np.random.default_rng((self.config.seed, step)), step)]

    def batch(self, rng: np.random.Generator, step: int) -> Tensor:
        """Crops (B, 3, side, side) in [-1, 1] of scenes with up to nine objects."""
        config = self.config
        side = CANVAS if step >= (1 - config.whole_share) * config.num_steps else config.crop
        crops = []
        for _ in range(config.batch_size):
            pixels = render_array(sample_scene(rng, int(rng.integers(1, 10))))
            top, left = rng.integers(0, CANVAS + 1 - side, 2)
            crops.append(pixels[top : top + side, left : left + side])
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def loss(self, batch: Tensor) -> StageLoss:
        """L1 + 2 * squared error + KL; the metric is the PSNR in dB."""
        posterior = self.modules.encode(batch).latent_dist
        latents = posterior.sample()
        level = self.config.latent_noise * torch.rand(len(latents), 1, 1, 1) * latents.std()
        latents = latents + level * torch.randn_like(latents)
        error = self.modules.decode(latents).sample - batch
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        loss = error.abs().mean() + 2 * error.pow(2).mean() + self.config.kl_weight * kl
        psnr = -10 * float(torch.log10(error.detach().pow(2).mean() / 4))
        metrics = {"loss": float(loss.detach()), "psnr": psnr, "kl": float(kl.detach())}
        return StageLoss(loss, {name: (value, 1.0) for name, value in metrics.items()})


@torch.no_grad()
def normalize_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold each latent channel's scale into the layers around it, and record mean and deviation in the
    config.

    Afterwards every channel has unit deviation on `pixels` (N, 3, H, W), so no channel dominates the DiT's
    loss, and reconstructions are what they were.
    """
    channels = vae.config.latent_channels
    deviation = vae.encode(pixels).latent_dist.mean.std((0, 2, 3))
    out = vae.encoder.conv_out
    out.weight[:channels] /= deviation[:, None, None, None]
    out.bias[:channels] /= deviation
    out.bias[channels:] -= 2 * deviation.log()
    vae.decoder.conv_in.weight *= deviation[None, :, None, None]
    latents = vae.encode(pixels).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))


@torch.no_grad()
def fit_float16(vae: AutoencoderKL, pixels: Tensor, most: float = 8192.0) -> float:
    """Divide what the encoder's last stages add up by a power of two, where it would not fit float16.

    Norms follow wherever that sum is read, so latents are what they were; a VAE without attention between its
    middle blocks trains to sums that float16, which ends at 65504, cannot hold.

    Args:
        vae: changed in place.
        pixels: (N, 3, H, W) in [-1, 1], to measure on.
        most: that is left as it is.

    Returns:
        The divisor; 1 where nothing was changed.
    """
    last: Any = vae.encoder.down_blocks[-1]
    middle: Any = vae.encoder.mid_block
    largest: list[float] = []
    hook = middle.register_forward_hook(lambda part, given, out: largest.append(float(out.abs().max())))
    vae.encode(pixels)
    hook.remove()
    divisor = 2.0 ** max(0, math.ceil(math.log2(max(largest) / most)))
    adding = [part.conv2 for part in (*last.resnets, *middle.resnets)]
    adding += [part.conv_shortcut for part in last.resnets if part.conv_shortcut is not None]
    adding += [part.to_out[0] for part in middle.attentions if part is not None]
    for layer in adding:
        layer.weight /= divisor
        layer.bias /= divisor
    return divisor
