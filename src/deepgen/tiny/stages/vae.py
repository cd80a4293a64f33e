"""The storybook's VAE: cells and rows of cells first, whole pictures later; decoder alone at the end.

A thing always stands at the same pixels of its cell, so single cells of 32x32 pixels teach the drawings at a
ninth of the cost of a picture; whole pictures then teach the borders of cells, and that one mean of the group
norms covers a whole picture. A share of the crops shows what the world does not have (drawings off the grid,
plain colors, edges, stripes, noise), so that a fine-tune on other pictures finds a VAE that draws them.

Latents are disturbed on their way to the decoder: it learns to draw clean pictures of what a small DiT will
give it. With `trains_encoder` off the latents stay what they are, so a DiT can be trained on them meanwhile;
and once there is a DiT, the decoder learns from what that one draws (`dit`, see drawn.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from deepgen.models.config import DEEPGEN_TINY
from deepgen.tiny.render import CANVAS, render_array
from deepgen.tiny.sample import sample_scene
from deepgen.tiny.scene import CELL, COLUMNS, ROWS
from deepgen.tiny.stages.drawn import draw_pool, drawn_example
from deepgen.tiny.stages.looks import hard_scene, read_looks
from deepgen.tiny.stages.vlm import to_pixels
from deepgen.tiny.templates import BLUR
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.pool import load_weights

_HARD = 8.0  # how much more often a drawing comes for a thing that is never readable
_FAINT = 1e-4  # mean square of a cell's details, below which there is nothing to see: 0.01 in [-1, 1]


@dataclass(frozen=True, kw_only=True)
class StorybookVAEConfig(TrainConfig):
    """Batch, crops and weights of the loss.

    Attributes:
        kl_weight: of the KL term of the loss.
        hard_share: see looks.py; drawings of a DiT are weighted the same way.
        trains_encoder: whether the encoder learns; off, the decoder alone.
        dit: a run or transformer folder, whose drawings the decoder learns to decode.
        drawn_share: of the steps on whole pictures, that decode what the DiT drew.
        drawn_pool: captions and edits that the DiT draws before the first step.
    """

    num_steps: int = 2400
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=2e-3, muon_lr=0.015, decay_share=0.6, muon_dtype="bfloat16", warmup_steps=30
        )
    )
    ema_decay: float = 0.995
    scenes: int = 8  # whole pictures of a batch, or as many pixels in crops
    whole_share: float = 0.4  # the last share of the run, on whole pictures
    other_share: float = 0.08  # of pictures, that show what the world does not have
    kl_weight: float = 1e-4
    latent_noise: float = 0.15  # largest noise on the latents, in their standard deviations
    detail_weight: float = 0.0  # of the error of details, measured by how strong a cell's details are
    detail_power: float = 1.0  # of a cell's error of details; above 1 the worst drawings weigh most
    hard_share: float = 0.0  # of pictures, of looks that `start` gives back unreadable
    trains_encoder: bool = True
    start: Path | None = None  # a run or a VAE folder to begin with
    dit: Path | None = None
    drawn_share: float = 0.5
    drawn_pool: int = 8192
    autocast: bool = True  # bfloat16 products

    def __post_init__(self) -> None:
        """Refuse a DiT whose latents are not the decoder's."""
        super().__post_init__()
        if self.dit is not None and (self.trains_encoder or self.start is None):
            raise ValueError(
                "a DiT draws in the latents it was trained on: beside dit, set trains_encoder=false and "
                "start=FOLDER, the finished VAE of its run"
            )

    def build(self, processes: Processes) -> StorybookVAE:
        """The stage.

        Raises:
            ValueError: the decoder alone is to learn, or on what it does badly, and nothing says whose.
        """
        if self.start is None and (not self.trains_encoder or self.hard_share):
            raise ValueError(
                "trains_encoder=false and hard_share go on from a finished VAE; name its run or folder: "
                "--set start=FOLDER"
            )
        processes.require_one(type(self).__name__)
        return StorybookVAE(self)


@dataclass(frozen=True)
class DecodedBatch:
    """Pictures (B, 3, h, w) in [-1, 1], and where a DiT drew them its latents (B, C, h / 8, w / 8)."""

    pixels: Tensor
    latents: Tensor | None = None


class StorybookVAE:
    """Reconstruction."""

    def __init__(self, config: StorybookVAEConfig):
        self.config = config
        self.vae = AutoencoderKL(**DEEPGEN_TINY.vae)
        self.modules: nn.Module = self.vae
        if config.start is not None:
            load_weights(self.vae, config.start)
        if not config.trains_encoder:
            self.vae.encoder.requires_grad_(False)
        self.looks = read_looks(self.vae) if config.hard_share else None
        self.drawn: tuple[Tensor, Tensor] | None = None
        if config.dit is not None and config.start is not None:
            self.drawn = draw_pool(
                config.start, config.dit, config.drawn_pool, config.seed, autocast=config.autocast
            )
        self.drawn_weights = self._drawn_weights()
        self.vae.to(memory_format=torch.channels_last)

    def batches(self, step: int) -> list:
        """The one batch of a step."""
        return [self.batch(np.random.default_rng((self.config.seed, step)), step)]

    def batch(self, rng: np.random.Generator, step: int) -> DecodedBatch:
        """Cells, rows of cells or whole pictures."""
        config = self.config
        is_whole = step >= (1 - config.whole_share) * config.num_steps
        if is_whole and self.drawn is not None and rng.random() < config.drawn_share:
            latents, numbers = self.drawn
            rows = torch.from_numpy(rng.choice(len(numbers), config.scenes, p=self.drawn_weights))
            examples = [drawn_example(config.seed, int(number)) for number in numbers[rows]]
            return DecodedBatch(to_pixels([example.target for example in examples]), latents[rows].float())
        images = np.stack([self._picture(rng) for _ in range(config.scenes)])
        if not is_whole:
            height, width = (CELL, CELL) if step % 3 else (CELL, CANVAS)
            tiles = images.reshape(config.scenes, ROWS, height, CANVAS // width, width, 3)
            images = tiles.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, 3)
            if height == width and config.scenes > 1:  # two thirds of the cells of most scenes are empty
                images = _without_most_plain(rng, images, config.scenes * COLUMNS * 2)
        return DecodedBatch(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def _picture(self, rng: np.random.Generator) -> np.ndarray:
        if self.looks is not None and rng.random() < self.config.hard_share:
            return render_array(hard_scene(rng, self.looks))
        return _image(rng, self.config.other_share)

    def _drawn_weights(self) -> np.ndarray | None:
        """Of what the DiT drew, shares (N,) by how unreadable its things are; None: all alike."""
        if self.looks is None or self.drawn is None:
            return None
        scenes = (drawn_example(self.config.seed, int(number)).target for number in self.drawn[1])
        weights = np.array([1 + _HARD * self.looks.share(scene) for scene in scenes])
        return weights / weights.sum()

    def loss(self, batch: DecodedBatch) -> StageLoss:
        """L1 + 2 * squared error + error of neighbours' differences + details + KL; the metric is the PSNR
        in dB, of pictures that the DiT drew under a name of its own.
        """
        config = self.config
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        kl = torch.zeros(())
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            latents = batch.latents
            if latents is None:
                posterior = self.vae.encode(pixels).latent_dist
                mean, logvar = posterior.mean.float(), posterior.logvar.float()
                kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
                latents = posterior.sample() if config.trains_encoder else posterior.mean
                level = config.latent_noise * torch.rand(len(latents), 1, 1, 1) * latents.float().std()
                latents = latents + level * torch.randn(latents.shape)
            decoded = self.vae.decode(latents).sample.float()
        error = decoded - pixels
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        square = error.pow(2).mean()
        loss = error.abs().mean() + 2 * square + 0.5 * edges + config.kl_weight * kl
        psnr = -10 * float(torch.log10(square.detach() / 4))
        detail = detail_error(decoded, pixels, config.detail_power) if config.detail_weight else None
        if detail is not None:
            loss = loss + config.detail_weight * detail
        if batch.latents is None:
            metrics = {"loss": float(loss.detach()), "psnr": psnr, "kl": float(kl.detach())}
        else:
            metrics = {"drawn_loss": float(loss.detach()), "drawn_psnr": psnr}
        if detail is not None:
            metrics["detail" if batch.latents is None else "drawn_detail"] = float(detail.detach())
        return StageLoss(loss, {name: (value, 1.0) for name, value in metrics.items()})


def detail_error(drawn: Tensor, wanted: Tensor, power: float = 1.0) -> Tensor:
    """Mean over the cells that have details: energy of the error's details by that of the wanted ones, to
    this power.

    Details are what a blur takes away. In plain errors a white rabbit on white weighs next to nothing, so it
    stays blurred longest; here every drawing weighs the same. Images (B, 3, h, w) in [-1, 1] of whole cells.
    """
    reach = torch.arange(-6, 7, dtype=torch.float32)
    kernel = torch.exp(-reach.square() / (2 * BLUR**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)

    def energy(images: Tensor) -> Tensor:  # (B, rows, columns)
        padded = F.pad(images, (6, 6, 6, 6), mode="replicate")
        across = F.conv2d(padded, kernel[..., None, :], groups=3)
        details = images - F.conv2d(across, kernel[..., None], groups=3)
        return F.avg_pool2d(details.square().mean(1, keepdim=True), CELL)[:, 0]

    strength = energy(wanted)
    is_drawn = strength > _FAINT
    shares = energy(drawn - wanted) / (strength + _FAINT)
    return (shares.pow(power) * is_drawn).sum() / is_drawn.sum().clamp(min=1)


def _without_most_plain(rng: np.random.Generator, tiles: np.ndarray, number: int) -> np.ndarray:
    """So many of the tiles, those with something on them first."""
    is_plain = (tiles == tiles[:, :1, :1]).all((1, 2, 3))
    order = np.argsort(is_plain * 0.8 + rng.random(len(tiles)))
    return tiles[order[:number]]


def _image(rng: np.random.Generator, other_share: float) -> np.ndarray:
    """A scene of the world, or something else: uint8 (96, 96, 3)."""
    if rng.random() >= other_share:
        return render_array(sample_scene(rng))
    kind = int(rng.integers(4))
    if kind == 0:  # drawings off the grid
        both = np.concatenate([render_array(sample_scene(rng)), render_array(sample_scene(rng))], 1)
        return np.roll(both, tuple(rng.integers(0, CANVAS, 2)), (0, 1))[:, :CANVAS]
    first, second = rng.integers(0, 256, (2, 1, 1, 3))
    y, x = np.mgrid[0:CANVAS, 0:CANVAS][..., None] - rng.integers(0, CANVAS, (2, 1, 1, 1))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    if kind == 1:  # an edge, or a ramp
        share = np.clip(along / rng.uniform(0.5, 90) + 0.5, 0, 1)
    elif kind == 2:  # stripes
        share = (np.sin(along * 2 * np.pi / rng.uniform(6, 40)) > 0).astype(float)
    else:  # noise on a plain color
        return (first + rng.normal(0, rng.uniform(2, 40), (CANVAS, CANVAS, 3))).clip(0, 255).astype(np.uint8)
    return (first + share * (second - first)).astype(np.uint8)
