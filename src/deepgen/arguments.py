"""Argument normalisation and validation of a call of the pipeline: prompts, references, seeds, embeddings.

Every refusal names the argument, and everything here is cheap, so a mistake is known before a model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.data.images import open_image
from deepgen.prompt_text import check_prompt
from deepgen.types import Condition


def read_prompts(prompt: str | Sequence[str] | None, prompt_embeds: Tensor | None) -> list[str] | None:
    """The prompts as a list, empty texts as they are; None where embeddings are given instead."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("give either prompt or prompt_embeds")
    if prompt is None:
        return None
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return [check_prompt(prompt, "prompt")]
    prompts = list(prompt)
    if not prompts:
        raise ValueError("prompt is an empty list")
    return [check_prompt(text, f"prompt {index}") for index, text in enumerate(prompts)]


def read_references(image: Any, count: int) -> list[list[Image.Image]] | None:
    """Per prompt, its opened references."""
    if image is None:
        return None
    if isinstance(image, (Tensor, np.ndarray)) and image.ndim == 4:
        image = list(image)
    if not isinstance(image, (list, tuple)):
        opened = open_image(image)
        return [[opened] for _ in range(count)]
    if not image:
        raise ValueError("image is an empty list; leave it out to draw from the prompt alone")
    nested = any(isinstance(row, (list, tuple)) for row in image)
    if not nested and count == 1:
        return [[open_image(picture) for picture in image]]
    if len(image) != count:
        raise ValueError(
            f"image: {len(image)} entries given for {count} prompts; give each prompt its picture or list"
        )
    rows = [list(row) if isinstance(row, (list, tuple)) else [row] for row in image]
    for index, row in enumerate(rows):
        if not row:
            raise ValueError(f"image: prompt {index} has no picture; draw it in a call of its own")
    return [[open_image(picture) for picture in row] for row in rows]


def make_generators(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    total: int,
) -> tuple[list[int] | None, list[torch.Generator]]:
    """One generator per image, and their seeds where they are known."""
    if seed is not None and generator is not None:
        raise ValueError("give either seed or generator")
    if isinstance(generator, torch.Generator):
        return None, [generator] * total
    if generator is not None:
        if len(generator) != total:
            raise ValueError(
                f"generator: {len(generator)} given for {total} images; give one, or one per image"
            )
        return None, list(generator)
    if seed is None:
        seed = int(
            torch.randint(2**31, ()).item()
        )  # from torch's global state, so torch.manual_seed rules it
    seeds = [seed + k for k in range(total)] if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != total:
        raise ValueError(f"seed: {len(seeds)} given for {total} images; give one, or one per image")
    return seeds, [torch.Generator().manual_seed(s) for s in seeds]


def given_condition(name: str, embeds: Tensor, pooled: Tensor | None) -> Condition:
    """A condition from embeddings the caller made."""
    if pooled is None or len(pooled) != len(embeds):
        raise ValueError(f"{name} needs its pooled embeddings, one row for each of its {len(embeds)}")
    return Condition(embeds, pooled)


def check_negative(negative: Condition | None, guidance_scale: float, count: int) -> Condition | None:
    """The negative branch of `count` prompts; None where nothing is guided."""
    if guidance_scale <= 1:
        return None
    if negative is None or len(negative) != count:
        raise ValueError(
            f"guidance_scale {guidance_scale} needs negative_prompt_embeds, "
            f"one row for each of the {count} prompt_embeds"
        )
    return negative
