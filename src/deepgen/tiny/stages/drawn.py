"""Latents as a DiT draws them, and the pictures they should have become: what a decoder really gets.

A DiT of this size misses the latents of a picture by a little, everywhere and not like noise; a decoder that
has only met the encoder's latents makes a blur of that. So pictures are disturbed up to some noise level and
drawn to the end by the DiT from their code, and the decoder learns to make the picture of what comes out.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_STORYBOOK
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.sampling.interpolation import interpolate
from deepgen.tiny.codes import empty_code, pooled_code, to_array, write_code
from deepgen.tiny.scene import COLUMNS
from deepgen.tiny.stages.dit import encode_scenes, load_vae, pool_example
from deepgen.training.pool import load_weights

_LEVELS = (0.4, 0.85)  # of the noise; above, things that the code leaves open come out differently
_NUM_STEPS = 6
_GUIDANCE = 1.5
_NUM_SILENT = 8  # positions of the context that say nothing, as those of a prompt
_MOST_ERROR = 0.5  # mean square in a cell; a cell with another thing in it is 2 of unit deviation off
_BATCH_SIZE = 64


@torch.no_grad()
def draw_pool(
    vae_dir: Path, dit_source: Path, number: int, seed: int, *, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """So many captions' pictures as the DiT draws them; those in which it drew something else are left out.

    Args:
        vae_dir: the finished VAE folder in whose latents the DiT draws.
        dit_source: a run of `storybook-dit`, or a transformer folder.
        number: of captions tried.
        seed: of captions and noise.
        autocast: bfloat16 products.

    Returns:
        Latents as the decoder takes them, float16 (N, C, h, w), and the captions' numbers, for `pool_example`
        with the same seed; int64 (N,).

    Raises:
        ValueError: the DiT drew none of the pictures.
    """
    vae = load_vae(vae_dir)
    dit = DeepGenTransformer2DModel(**DEEPGEN_STORYBOOK.transformer).eval()
    load_weights(dit, dit_source)
    generator = torch.Generator().manual_seed(seed)
    latents, kept = [], []
    for start in range(0, number, _BATCH_SIZE):
        numbers = range(start, min(start + _BATCH_SIZE, number))
        examples = [pool_example(seed, index, "generate") for index in numbers]
        clean = encode_scenes(vae, [example.target for example in examples], autocast=autocast).float()
        codes = torch.from_numpy(to_array([write_code(example) for example in examples]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            drawn = _draw(dit, clean, codes, generator)
        error = F.avg_pool2d((drawn - clean).square().mean(1), clean.shape[-1] // COLUMNS)
        is_same = error.flatten(1).amax(1) < _MOST_ERROR
        latents.append(_as_decoded(vae, drawn[is_same]).half())
        kept += [index for index, same in zip(numbers, is_same.tolist(), strict=True) if same]
    if not kept:
        raise ValueError(
            f"the DiT of {dit_source} drew none of {number} pictures right; it needs more training first"
        )
    return torch.cat(latents), torch.tensor(kept)


def _draw(dit: DeepGenTransformer2DModel, clean: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
    """Latents (B, C, h, w) disturbed to a level of their own each, and drawn to the end."""
    size, (low, high) = len(clean), _LEVELS
    level = low + (high - low) * torch.rand(size, generator=generator)
    noise = torch.randn(clean.shape, generator=generator)
    empty = torch.from_numpy(to_array([empty_code("generate")])).expand_as(codes)
    both = torch.cat([codes, empty])
    context = torch.cat([torch.zeros(len(both), _NUM_SILENT, both.shape[-1]), both], 1)
    latents = interpolate(clean, noise, level)
    for now, after in pairwise(torch.linspace(1, 0, _NUM_STEPS + 1).tolist()):
        velocity = dit(
            hidden_states=torch.cat([latents, latents]),
            encoder_hidden_states=context,
            pooled_projections=pooled_code(both),
            timestep=1000 * now * level.repeat(2),
            return_dict=False,
        )[0].float()
        said, silent = velocity.chunk(2)
        guided = silent + _GUIDANCE * (said - silent)
        latents = latents + ((after - now) * level)[:, None, None, None] * guided
    return latents


def _as_decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return latents / vae.config.scaling_factor + latent_space.shift(vae)
