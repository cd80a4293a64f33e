"""The storybook's architecture with random weights, as a pipeline folder: two seconds, 16 MB."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline
from deepgen.tiny.tokenizer import write_tokenizer


def write_storybook_model(folder: Path, seed: int = 0) -> Path:
    """Write it to the folder, in bfloat16."""
    sizes = DEEPGEN_TINY
    with TemporaryDirectory() as written, torch.random.fork_rng(devices=[]):
        write_tokenizer(Path(written))
        torch.manual_seed(seed)
        pipe = DeepGenPipeline(
            vlm=DeepGenVLM(Qwen2_5_VLConfig(**sizes.vlm)),
            connector=StackedChannelBridge(**sizes.connector),
            transformer=DeepGenTransformer2DModel(**sizes.transformer),
            vae=AutoencoderKL(**sizes.vae),
            scheduler=FlowMatchEulerDiscreteScheduler(**sizes.scheduler),
            tokenizer=AutoTokenizer.from_pretrained(written),
            defaults=sizes.defaults,
        )
        pipe.to(dtype=torch.bfloat16).save_pretrained(folder)
    return folder
