"""A pipeline of the storybook architecture with random weights, for tests of what is around a model."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline
from deepgen.tiny.tokenizer import load_tokenizer


def random_storybook(world: str | None = "storybook", num_steps: int = 1) -> DeepGenPipeline:
    """The same weights every time; draws in one step of the solver."""
    sizes = DEEPGEN_TINY
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe = DeepGenPipeline(
            vlm=DeepGenVLM(Qwen2_5_VLConfig(**sizes.vlm)).eval(),
            connector=StackedChannelBridge(**sizes.connector).eval(),
            transformer=DeepGenTransformer2DModel(**sizes.transformer).eval(),
            vae=AutoencoderKL(**sizes.vae).eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(**sizes.scheduler),
            tokenizer=load_tokenizer(),
            defaults={**sizes.defaults, "num_inference_steps": num_steps},
            world=world,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe
