"""Prompts, pictures and DiT inputs of a given size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.data.pixels import to_pixels
from deepgen.planning.flops import SampleShape, positions
from harness.models import Subject

PROMPT = "a cat left of a dog and an apple on a white background"  # each word a token


def prompt_of(subject: Subject, tokens: int) -> str:
    """A prompt of so many tokens with its template, or the shortest there is."""
    pipe: Any = subject.pipe
    words = PROMPT.split()
    text = words[0]
    while pipe._tokenize([text], None).lengths[0] < tokens:
        missing = tokens - pipe._tokenize([text], None).lengths[0]
        text = " ".join([text, *(words[(len(text.split()) + k) % len(words)] for k in range(missing))])
    return text


def image(side: int, seed: int = 0) -> Image.Image:
    """A square picture of soft noise."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def pixels(side: int, seed: int = 0) -> Tensor:
    """The same as the model sees it, (3, side, side) in [-1, 1]."""
    return to_pixels(image(side, seed), (side, side))


def transformer_inputs(subject: Subject, sample: SampleShape, rows: int) -> dict[str, Any]:
    """Arguments of one call of the DiT, random numbers of the sizes of `sample`."""
    pipe, p = subject.pipe, positions(subject.counted, sample)
    config = pipe.transformer.config
    latent = sample.image_size // pipe.vae_scale_factor
    make = {"dtype": pipe.transformer.dtype, "device": subject.device}
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(rows, config.in_channels, latent, latent, **make),
        "encoder_hidden_states": torch.randn(rows, p.context, config.joint_attention_dim, **make),
        "pooled_projections": torch.randn(rows, config.pooled_projection_dim, **make),
        "timestep": torch.full((rows,), 500.0, device=subject.device),
        "return_dict": False,
    }
    if sample.references:
        references = [
            torch.randn(config.in_channels, latent, latent, **make) for _ in range(sample.references)
        ]
        inputs["reference_latents"] = [references] * rows
    return inputs
