"""Latents as a DiT draws them, and the pictures they should have become: what a decoder really gets.

A DiT of this size misses the latents of a picture by a little, everywhere and not like noise; a decoder that
has only met the encoder's latents makes a blur of that. So pictures are disturbed up to some noise level and
drawn to the end by the DiT from their code, and the decoder learns to make the picture of what comes out.
Captions show a thing as it is drawn where nothing is said of that, edits every other way.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.sampling.interpolation import interpolate
from deepgen.tiny.codes import empty_code, pooled_code, to_array, write_code
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.scene import COLUMNS
from deepgen.tiny.stages.dit import TASKS, encode_scenes, load_vae, pool_example
from deepgen.training.pool import load_weights

_LEVELS = (0.4, 0.85)  # of the noise; above, things that the code leaves open come out differently
_NUM_STEPS = 6
_GUIDANCE = {"generate": 1.5, "edit": 1.25}
_NUM_SILENT = 8  # positions of the context that say nothing, as those of a prompt
_MOST_ERROR = 0.5  # mean square in a cell; a cell with another thing in it is 2 of unit deviation off
_BATCH_SIZE = 64


@torch.no_grad()
def draw_pool(
    vae_dir: Path, dit_source: Path, number: int, seed: int, *, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """Pictures of so many captions and edits as the DiT draws them; those that came out as something else are
    left out.

    Args:
        vae_dir: the finished VAE folder in whose latents the DiT draws.
        dit_source: a run of `storybook-dit`, or a transformer folder.
        number: of captions and edits tried, together.
        seed: of examples and noise.
        autocast: bfloat16 products.

    Returns:
        Latents as the decoder takes them, float16 (N, C, h, w), and the numbers of the examples, for
        `drawn_example` with the same seed; int64 (N,).

    Raises:
        ValueError: the DiT drew none of the pictures.
    """
    vae = load_vae(vae_dir).to(memory_format=torch.channels_last)
    dit = DeepGenTransformer2DModel(**DEEPGEN_TINY.transformer).eval()
    load_weights(dit, dit_source)
    generator = torch.Generator().manual_seed(seed)
    latents, kept = [], []
    for start in range(0, number, _BATCH_SIZE):
        task = TASKS[start // _BATCH_SIZE % 2]
        numbers = range(start, min(start + _BATCH_SIZE, number))
        examples = [drawn_example(seed, index) for index in numbers]
        sources = [example.source for example in examples if example.source is not None]
        references = encode_scenes(vae, sources, autocast=autocast).float() if sources else None
        clean = encode_scenes(vae, [example.target for example in examples], autocast=autocast).float()
        codes = torch.from_numpy(to_array([write_code(example) for example in examples]))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            level = _LEVELS[0] + (_LEVELS[1] - _LEVELS[0]) * torch.rand(len(clean), generator=generator)
            noisy = interpolate(clean, torch.randn(clean.shape, generator=generator), level)
            steps = torch.linspace(1, 0, _NUM_STEPS + 1)
            drawn = draw(dit, noisy, level, codes, references, steps, _GUIDANCE[task], _NUM_SILENT)
        error = F.avg_pool2d((drawn - clean).square().mean(1), clean.shape[-1] // COLUMNS)
        is_same = error.flatten(1).amax(1) < _MOST_ERROR
        latents.append(_as_decoded(vae, drawn[is_same]).half())
        kept += [index for index, same in zip(numbers, is_same.tolist(), strict=True) if same]
    if not kept:
        raise ValueError(
            f"the DiT of {dit_source} drew none of {number} pictures right; it needs more training first"
        )
    return torch.cat(latents), torch.tensor(kept)


def drawn_example(seed: int, number: int) -> StorybookExample:
    """Example `number` of what `draw_pool` tries: captions and edits, a batch of each in turn."""
    return pool_example(seed, number, TASKS[number // _BATCH_SIZE % 2])


def draw(
    dit: DeepGenTransformer2DModel,
    latents: Tensor,
    level: Tensor,
    codes: Tensor,
    references: Tensor | None,
    steps: Tensor,
    guidance: float,
    num_silent: int,
) -> Tensor:
    """Draw latents (B, C, h, w) to the end by Euler steps, guided against the empty code.

    Args:
        dit: the DiT.
        latents: with noise.
        level: of that noise, (B,).
        codes: (B, slots, WIDTH).
        references: latents of the pictures to edit, (B, C, h, w); None draws from text.
        steps: shares of `level`, from 1 down to 0.
        guidance: 1 is none.
        num_silent: positions of the context that say nothing.
    """
    task = TASKS[references is not None]
    empty = torch.from_numpy(to_array([empty_code(task)])).expand_as(codes)
    both = torch.cat([codes, empty])
    context = torch.cat([torch.zeros(len(both), num_silent, both.shape[-1]), both], 1)
    shown = None if references is None else [[x] for x in torch.cat([references, references])]
    for now, after in pairwise(steps.tolist()):
        velocity = dit(
            hidden_states=torch.cat([latents, latents]),
            encoder_hidden_states=context,
            pooled_projections=pooled_code(both),
            timestep=1000 * now * level.repeat(2),
            reference_latents=shown,
            return_dict=False,
        )[0].float()
        said, silent = velocity.chunk(2)
        guided = silent + guidance * (said - silent)
        latents = latents + ((after - now) * level)[:, None, None, None] * guided
    return latents


def _as_decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return latents / vae.config.scaling_factor + latent_space.shift(vae)
