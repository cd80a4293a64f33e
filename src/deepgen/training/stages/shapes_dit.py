"""The flat model's DiT: flow matching on the fixed slot codes, captions and edits in turn.

The stand-in for a pretrained DiT. It never meets text here: the context is some silent positions, where a
prompt's words will be, and the slots, with a little noise so that a connector that writes them almost right
is as good.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from deepgen.embedded import embedded_folder
from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.sampling.interpolation import interpolate
from deepgen.sampling.noise_levels import flow_matching_loss
from deepgen.shapes.entries import edit_entry, scene_entry, training_claim
from deepgen.shapes.slots import claim_code, edit_code, empty_code, pooled_code
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.pool import encode_pool, load_weights


@dataclass(frozen=True, kw_only=True)
class ShapesDiTConfig(TrainConfig):
    """Pool, batches, dropout and noise levels.

    Attributes:
        pool_size: pictures that are encoded once.
        pool_seed: of the pool.
        batch_size: pictures of a step.
        edit_batch_size: edits of a step.
        dropout: share of samples without a condition.
        code_noise: deviation of the noise on the conditions.
        shift: of the noise levels, 1 is none.
        logit_mean: of the logit-normal density of noise levels.
        logit_std: of that density.
    """

    num_steps: int = 4600
    seed: int = 11
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, warmup_steps=50, decay_share=0.5))
    vae: Path | None = None  # a run of shapes-vae or a VAE folder; the packaged one when None
    pool_size: int = 12288
    pool_seed: int = 1
    pool_file: Path | None = None  # keeps the pool's latents, so that a resumed run need not encode again
    batch_size: int = 320
    edit_batch_size: int = 256
    edit_share: float = 0.45  # of the steps
    dropout: float = 0.1
    code_noise: float = 0.1
    max_silent_tokens: int = 32  # most steps have few
    shift: float = 2.0
    logit_mean: float = 0.2
    logit_std: float = 1.2
    start: Path | None = None  # a finished run or a transformer folder to begin with

    def build(self, processes: Processes) -> ShapesDiT:
        """The stage; encodes the pool."""
        return ShapesDiT(self, processes)


@dataclass(frozen=True)
class DrawingBatch:
    """Clean latents, conditions, references and the noise: everything random is drawn with the batch."""

    clean: Tensor
    references: Tensor | None
    context: Tensor
    pooled: Tensor
    sigma: Tensor
    noise: Tensor
    num_total: int  # rows of the whole batch, of which these may be a share

    def share(self, rank: int, world_size: int) -> DrawingBatch:
        """The rows rank, rank + world_size, ..."""
        rows = slice(rank, None, world_size)
        tensors = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


class ShapesDiT:
    """Flow matching."""

    def __init__(self, config: ShapesDiTConfig, processes: Processes):
        self.config, self.processes = config, processes
        self.modules: nn.Module = DeepGenTransformer2DModel(**DEEPGEN_SHAPES.transformer)
        if config.start is not None:
            load_weights(self.modules, config.start)
        self.scenes = [scene_entry(config.pool_seed, index) for index in range(config.pool_size)]
        self.edits = [edit_entry(config.pool_seed, index) for index in range(config.pool_size)]
        vae = _load_vae(config.vae)

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            return latent_space.draw(vae, latent_space.encode(vae, pixels), "mode")

        pool = encode_pool(
            encode,
            {
                "scenes": self.scenes,
                "sources": [edit.source for edit in self.edits],
                "targets": [edit.target for edit in self.edits],
            },
            config.pool_file,
        )
        self.latents, self.sources, self.targets = pool["scenes"], pool["sources"], pool["targets"]

    def batches(self, step: int) -> list[DrawingBatch]:
        """This process's share of the one batch of a step: every `world_size`-th row."""
        whole = self.batch(np.random.default_rng((self.config.seed, step)), step)
        return [whole.share(self.processes.rank, self.processes.world_size)]

    def batch(self, rng: np.random.Generator, step: int) -> DrawingBatch:
        """Captions or edits, as drawn."""
        config = self.config
        is_edit = bool(rng.random() < config.edit_share)
        if is_edit:
            index = rng.integers(0, len(self.edits), config.edit_batch_size)
            clean, references = self.targets[index].float(), self.sources[index].float()
            codes = np.stack([edit_code(self.edits[i]) for i in index])
        else:
            index = rng.integers(0, len(self.scenes), config.batch_size)
            clean, references = self.latents[index].float(), None
            codes = np.stack([claim_code(training_claim(rng, self.scenes[i])) for i in index])
        size = len(index)
        codes[rng.random(size) < config.dropout] = empty_code("edit" if is_edit else "generate")
        # The connector's mean runs over all positions, whose number varies: the pooled code comes at
        # varying strength.
        pooled = pooled_code(codes) * rng.uniform(0.7, 1.3, (size, 1))
        num_silent = int((config.max_silent_tokens + 1) * rng.random() ** 3)
        silent = np.zeros((size, num_silent, codes.shape[-1]), np.float32)
        context = np.concatenate([silent, codes], 1)
        context += config.code_noise * rng.standard_normal(context.shape, dtype=np.float32)
        u = 1 / (1 + np.exp(-rng.normal(config.logit_mean, config.logit_std, size)))
        sigma = config.shift * u / (1 + (config.shift - 1) * u)
        noise = rng.standard_normal(tuple(clean.shape), dtype=np.float32)
        context, pooled, sigma, noise = (torch.from_numpy(x).float() for x in (context, pooled, sigma, noise))
        return DrawingBatch(clean, references, context, pooled, sigma, noise, size)

    def loss(self, batch: DrawingBatch) -> StageLoss:
        """Mean flow-matching loss."""
        velocity = self.modules(
            hidden_states=interpolate(batch.clean, batch.noise, batch.sigma),
            encoder_hidden_states=batch.context,
            pooled_projections=batch.pooled,
            timestep=1000 * batch.sigma,
            reference_latents=None if batch.references is None else [[x] for x in batch.references],
            return_dict=False,
        )[0]
        loss = flow_matching_loss(velocity, batch.clean, batch.noise)
        task, size = "generate" if batch.references is None else "edit", len(batch.sigma)
        return StageLoss(loss * size / batch.num_total, {task: (float(loss.detach()) * size, size)})


def _load_vae(source: Path | None) -> AutoencoderKL:
    folder = embedded_folder("shapes") / "vae" if source is None else source
    if (folder / "config.json").is_file() and (folder / "diffusion_pytorch_model.safetensors").is_file():
        return AutoencoderKL.from_pretrained(folder).float().eval()
    vae = AutoencoderKL(**DEEPGEN_SHAPES.vae)
    load_weights(vae, folder)
    return vae.eval()
