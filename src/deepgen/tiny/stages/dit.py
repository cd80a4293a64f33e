"""The storybook's DiT: flow matching on the world's fixed codes, captions and edits in turn.

The stand-in for a pretrained DiT. It never meets text here: the context is some silent positions, where a
prompt's words will be, and the slots that say something, with a little noise so that a connector that writes
them almost right is as good. A DiT knows no order of its context, so empty slots are silent positions too.

Half of the pictures to edit are worn: decoded with a little noise and encoded again, as after an edit. The
DiT learns to draw what it leaves alone as it was at first, so that faults do not add up over edits in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.sampling.interpolation import interpolate
from deepgen.tiny.codes import NUM_SLOTS, WIDTH, directions, empty_code, pooled_code, write_code
from deepgen.tiny.edits import BAD_EDIT_KINDS
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.render import render_array
from deepgen.tiny.scene import COLUMNS, ROWS, Scene
from deepgen.tiny.splits import sample, weighted_kind
from deepgen.training.config import StageLoss, TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.parallel import Processes
from deepgen.training.pool import load_weights
from deepgen.training.stages.shapes_dit import DrawingBatch

# How often a kind is drawn; kinds that are not named, once.
CAPTION_WEIGHTS: Mapping[str, float] = {
    "two": 2, "three": 1.5, "counting": 2.5, "position": 1.5, "relation": 1.5, "all": 2, "text": 3,
    "text with a thing": 2,
}  # fmt: skip
EDIT_WEIGHTS: Mapping[str, float] = {
    "replace": 2, "add": 2, "write": 1.5, "correct": 1.5, "move": 1.5, "swap": 1.5, "resize": 1.5,
    "restyle": 1.5, "restyle all": 3, "mirror": 3, "mirror scene": 2.5, "change ground": 2,
    "grow smallest": 1.5, "night": 1.5, "complete": 1.5,
    "rain": 0.3, "feed": 0.5, "together": 0.5, "opposite": 0.5,
    **dict.fromkeys(BAD_EDIT_KINDS, 0.5),
}  # fmt: skip
# Mean of the differences in a cell: of most that are kept below 0.2 with wear, of new contents above 0.45.
_LEAST_CHANGE = 0.3
# Grounds on which drawings stay blurred longest: of what edits changed, 0.74 was read there, elsewhere 0.97.
_HARD_GROUNDS, _HARD_SHARE = ("night", "meadow", "sea"), 0.3
_MOST_WEAR = 0.2  # deviation of the noise on latents that are worn; latents have 1
TASKS = ("generate", "edit")
_NUM_COMPARED = 16  # entries of each task by which a kept pool is told from another
_MOST_PARTS = 48  # attributes of a code


@dataclass(frozen=True, kw_only=True)
class StorybookDiTConfig(TrainConfig):
    """Pool, batches, dropout and noise levels.

    Attributes:
        pool_seed: of the pool.
        batch_size: pictures of a step.
        edit_batch_size: edits of a step.
        dropout: share of samples without a condition.
        code_noise: deviation of the noise on the conditions.
        silent_noise: deviation of the deviations, a position each, of more noise on positions that say
            nothing: a connector leaves something at a few of a prompt's words.
        worn_share: of the edits, whose picture has been decoded and encoded again.
        changed_weight: of the error in the cells that an edit changes, beside 1 in the others.
        shift: of the noise levels, 1 is none.
        logit_mean: of the logit-normal density of noise levels.
        logit_std: of that density.
        is_compiled: run the DiT through torch.compile: a step takes 0.6 of its time on one core, after three
            minutes of compiling.
    """

    num_steps: int = 6000
    seed: int = 11
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-3, muon_lr=0.01, weight_decay=0.1, warmup_steps=50, decay_share=0.6, muon_dtype="bfloat16"
        )
    )
    vae: Path | None = None  # a run of storybook-vae or a VAE folder, whose encoder is final; needed
    pool_size: int = 32768  # captions, and as many edits
    pool_seed: int = 1
    pool_file: Path | None = None  # keeps the pool, so that a resumed run need not encode again
    batch_size: int = 256
    edit_batch_size: int = 192
    edit_share: float = 0.45  # of the steps
    dropout: float = 0.1
    code_noise: float = 0.1
    silent_noise: float = 0.2
    worn_share: float = 0.5
    changed_weight: float = 3.0
    max_silent_tokens: int = 16  # most steps have few; with 48 they take a third of the time
    shift: float = 2.0
    logit_mean: float = 0.2
    logit_std: float = 1.2
    start: Path | None = None  # a finished run or a transformer folder to begin with
    autocast: bool = True  # bfloat16 products
    is_compiled: bool = False

    def build(self, processes: Processes) -> StorybookDiT:
        """The stage; draws and encodes the pool."""
        if self.vae is None:
            raise ValueError("the DiT draws in a VAE's latents; name its run or folder: --set vae=FOLDER")
        return StorybookDiT(self, processes)


class StorybookDiT:
    """Flow matching."""

    def __init__(self, config: StorybookDiTConfig, processes: Processes):
        self.config, self.processes = config, processes
        self.modules: nn.Module = DeepGenTransformer2DModel(**DEEPGEN_TINY.transformer)
        if config.start is not None:
            load_weights(self.modules, config.start)
        # Weights, averages and checkpoints are those of the plain module.
        self.predict: Any = torch.compile(self.modules) if config.is_compiled else self.modules
        self.pool = load_pool(config)

    def batches(self, step: int) -> list[DrawingBatch]:
        """This process's share of the one batch of a step: every `world_size`-th row."""
        whole = self.batch(np.random.default_rng((self.config.seed, step)), step)
        return [whole.share(self.processes.rank, self.processes.world_size)]

    def batch(self, rng: np.random.Generator, step: int) -> DrawingBatch:
        """Captions or edits, as drawn."""
        config, pool = self.config, self.pool
        is_edit = bool(rng.random() < config.edit_share)
        size = config.edit_batch_size if is_edit else config.batch_size
        index = rng.integers(0, config.pool_size, size)
        task = "edit" if is_edit else "generate"
        clean = pool[f"{task} targets"][index].float()
        references = self._references(rng, index) if is_edit else None
        codes = _codes(pool[f"{task} codes"][index].numpy())
        codes[rng.random(size) < config.dropout] = _codes(pack_codes([empty_code(task)]).numpy())
        # The connector's mean runs over all positions, whose number varies: the pooled code comes at
        # varying strength.
        pooled = pooled_code(codes) * rng.uniform(0.7, 1.3, (size, 1))
        num_silent = int((config.max_silent_tokens + 1) * rng.random() ** 4)
        left = config.silent_noise * rng.standard_normal((size, num_silent, 1), dtype=np.float32)
        silent = left * rng.standard_normal((size, num_silent, WIDTH), dtype=np.float32)
        context = np.concatenate([_compact(codes), silent], 1)
        context += config.code_noise * rng.standard_normal(context.shape, dtype=np.float32)
        u = 1 / (1 + np.exp(-rng.normal(config.logit_mean, config.logit_std, size)))
        sigma = config.shift * u / (1 + (config.shift - 1) * u)
        noise = rng.standard_normal(tuple(clean.shape), dtype=np.float32)
        context, pooled, sigma, noise = (torch.from_numpy(x).float() for x in (context, pooled, sigma, noise))
        return DrawingBatch(clean, references, context, pooled, sigma, noise, size)

    def _references(self, rng: np.random.Generator, index: np.ndarray) -> Tensor:
        """Latents of the pictures to edit, some of them worn."""
        is_worn = torch.from_numpy(rng.random(len(index)) < self.config.worn_share)[:, None, None, None]
        return torch.where(is_worn, self.pool["edit worn"][index], self.pool["edit sources"][index]).float()

    def loss(self, batch: DrawingBatch) -> StageLoss:
        """Mean flow-matching loss; of edits weighted by whether a cell changes."""
        # So few tokens: plain products are faster than a fused attention, forwards and backwards.
        plain = sdpa_kernel(SDPBackend.MATH)
        with plain, torch.autocast("cpu", torch.bfloat16, enabled=self.config.autocast):
            velocity = self.predict(
                hidden_states=interpolate(batch.clean, batch.noise, batch.sigma),
                encoder_hidden_states=batch.context,
                pooled_projections=batch.pooled,
                timestep=1000 * batch.sigma,
                reference_latents=None if batch.references is None else batch.references[:, None],
                return_dict=False,
            )[0].float()
        size = len(batch.sigma)
        error = (velocity - (batch.noise - batch.clean)).square().mean(1)  # (B, h, w)
        task = "generate" if batch.references is None else "edit"
        metrics = {task: (float(error.detach().mean()) * size, size)}
        loss = error.mean()
        if batch.references is not None:
            is_changed = changed_cells(batch.clean, batch.references)
            weight = 1 + (self.config.changed_weight - 1) * is_changed.float()
            # Of each sample by itself, so that the step is the same on any number of processes.
            loss = ((error * weight).mean((1, 2)) / weight.mean((1, 2))).mean()
            if is_changed.any():
                changed = error.detach()[is_changed]
                metrics["edit_changed"] = (float(changed.sum()), len(changed))
        return StageLoss(loss * size / batch.num_total, metrics)


def changed_cells(clean: Tensor, references: Tensor) -> Tensor:
    """Where latents (B, C, h, w) are in a cell with another content than in the reference: bool (B, h, w)."""
    difference = (clean - references).abs().mean(1, keepdim=True)
    by_cell = F.adaptive_avg_pool2d(difference, (ROWS, COLUMNS))
    return F.interpolate(by_cell, size=clean.shape[-2:])[:, 0] > _LEAST_CHANGE


def _compact(codes: np.ndarray) -> np.ndarray:
    """Codes (B, slots, WIDTH) with their silent slots last, and cut to the most that say something."""
    is_silent = ~codes.any(-1)
    order = np.argsort(is_silent, axis=1, kind="stable")
    most = int((~is_silent).sum(1).max())
    return np.take_along_axis(codes, order[..., None], 1)[:, :most]


def pack_codes(codes: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Codes as numbers, uint8 (N, parts, 2): slot and attribute; (255, 255) where there is no more."""
    packed = np.full((len(codes), _MOST_PARTS, 2), 255, np.uint8)
    for row, code in enumerate(codes):
        packed[row, : len(code)] = code
    return torch.from_numpy(packed)


def _codes(packed: np.ndarray) -> np.ndarray:
    """Float32 (N, NUM_SLOTS, WIDTH) from what `pack_codes` made."""
    array = np.zeros((len(packed), NUM_SLOTS, WIDTH), np.float32)
    rows, parts = np.nonzero(packed[..., 0] != 255)
    slots, values = packed[rows, parts].T
    np.add.at(array, (rows, slots), directions()[values])
    return array


def pool_example(seed: int, index: int, task: str) -> StorybookExample:
    """Entry `index` of the pool, "generate" or "edit": a pure function of seed and index."""
    rng = np.random.default_rng((seed, index, task == "edit"))
    if task == "generate":
        return sample(rng, weighted_kind(rng, ["caption"], CAPTION_WEIGHTS))
    kind = weighted_kind(rng, ["edit", "reasoning edit"], EDIT_WEIGHTS)
    is_on_hard = rng.random() < _HARD_SHARE
    while True:
        example = sample(rng, kind)
        if not is_on_hard or example.target.ground in _HARD_GROUNDS:
            return example


def load_pool(config: StorybookDiTConfig) -> dict[str, Tensor]:
    """Latents, float16 (N, C, h, w), and packed codes of both tasks.

    Raises:
        ValueError: the pool's file holds another number of entries, or others than are drawn now.
    """
    if config.pool_file is not None and config.pool_file.exists():
        pool = load_file(config.pool_file)
        if len(pool["generate targets"]) != config.pool_size:
            raise ValueError(
                f"{config.pool_file} holds {len(pool['generate targets'])} entries, not {config.pool_size}; "
                "name another pool_file, or remove it"
            )
        if "edit worn" not in pool:
            raise ValueError(
                f"{config.pool_file} was made before pictures to edit were worn; name another pool_file, or "
                "remove it"
            )
        for task in TASKS:
            examples = _pool_examples(config, task, min(_NUM_COMPARED, config.pool_size))
            drawn = pack_codes([write_code(example) for example in examples])
            if not torch.equal(pool[f"{task} codes"][: len(drawn)], drawn):
                raise ValueError(
                    f"{config.pool_file} does not begin with what pool_seed {config.pool_seed} draws: it was "
                    "made with another seed or by an earlier version; name another pool_file, or remove it"
                )
        return pool
    vae = load_vae(config.vae or Path()).to(memory_format=torch.channels_last)
    pool: dict[str, Tensor] = {}
    for task in TASKS:
        examples = _pool_examples(config, task, config.pool_size)
        pool[f"{task} codes"] = pack_codes([write_code(example) for example in examples])
        pool[f"{task} targets"] = encode_scenes(
            vae, [example.target for example in examples], autocast=config.autocast
        )
        if task == "edit":
            sources = [example.source for example in examples if example.source is not None]
            pool["edit sources"] = encode_scenes(vae, sources, autocast=config.autocast)
            pool["edit worn"] = wear(vae, pool["edit sources"], config.pool_seed, autocast=config.autocast)
    if config.pool_file is not None:
        config.pool_file.parent.mkdir(parents=True, exist_ok=True)
        save_file(pool, config.pool_file)
    return pool


def _pool_examples(config: StorybookDiTConfig, task: str, number: int) -> list[StorybookExample]:
    return [pool_example(config.pool_seed, index, task) for index in range(number)]


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL, scenes: Sequence[Scene], batch_size: int = 64, *, autocast: bool = False
) -> Tensor:
    """Latents of drawn scenes as the DiT sees them, float16 (N, C, h, w)."""
    pieces = []
    for start in range(0, len(scenes), batch_size):
        arrays = np.stack([render_array(scene) for scene in scenes[start : start + batch_size]])
        pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            posterior = latent_space.encode(vae, pixels)
        pieces.append(latent_space.draw(vae, posterior, "mode").half())
    return torch.cat(pieces).contiguous()


@torch.no_grad()
def wear(
    vae: AutoencoderKL, latents: Tensor, seed: int, batch_size: int = 64, *, autocast: bool = False
) -> Tensor:
    """Latents of pictures that were drawn a little wrong and encoded again, float16 (N, C, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for clean in latents.float().split(batch_size):
        strength = _MOST_WEAR * torch.rand(len(clean), 1, 1, 1, generator=generator)
        drawn = clean + strength * torch.randn(clean.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pixels = latent_space.decode(vae, drawn, is_checked=False).float()
            stored = (pixels.clamp(-1, 1) * 127.5).round() / 127.5  # as a file keeps it
            posterior = latent_space.encode(vae, stored.contiguous(memory_format=torch.channels_last))
        pieces.append(latent_space.draw(vae, posterior, "mode").half())
    return torch.cat(pieces).contiguous()


def load_vae(source: Path) -> AutoencoderKL:
    """The VAE of a run or of a folder, in float32."""
    if (source / "config.json").is_file() and (source / "diffusion_pytorch_model.safetensors").is_file():
        return AutoencoderKL.from_pretrained(source).float().eval()
    vae = AutoencoderKL(**DEEPGEN_TINY.vae)
    load_weights(vae, source)
    return vae.eval()
