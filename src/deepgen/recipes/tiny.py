"""The recipes of DeepGen-Tiny, in the order they are run; docs/tiny/README.md has the commands and the
figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_TINY, Architecture
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.moved import renamed
from deepgen.pipeline import DeepGenPipeline
from deepgen.shapes.entries import scene_entry
from deepgen.training.config import TrainConfig
from deepgen.training.pool import load_tokenizer, load_weights, to_pixels
from deepgen.training.stages.tiny_dit import TinyDiTConfig
from deepgen.training.stages.tiny_vae import TinyVAEConfig, normalize_latents
from deepgen.training.stages.tiny_vlm import TinyVLMConfig
from deepgen.worlds import SHAPES


def tiny_vae() -> TrainConfig:
    """The autoencoder."""
    return TinyVAEConfig(seed=7)


def tiny_vlm() -> TrainConfig:
    """VLM and connector, onto the slot code."""
    return TinyVLMConfig(seed=13)


def tiny_dit() -> TrainConfig:
    """The DiT, from the slot code."""
    return TinyDiTConfig()


RECIPES = {
    "tiny-vae": tiny_vae,
    "tiny-vlm": tiny_vlm,
    "tiny-dit": tiny_dit,
}


def assemble(
    vae_dir: str | Path,
    vlm_dir: str | Path,
    transformer_dir: str | Path,
    output_dir: str | Path,
    sizes: Architecture = DEEPGEN_TINY,
    tokenizer: PreTrainedTokenizerBase | None = None,
    world: str | None = SHAPES,
) -> None:
    """Write the finished runs as one pipeline folder in bfloat16.

    Args:
        vae_dir: folder of the VAE with its latent statistics in the config.
        vlm_dir: run of `tiny-vlm`, or a pipeline folder whose VLM and connector to keep.
        transformer_dir: run of `tiny-dit`.
        output_dir: becomes what `DeepGenPipeline.from_pretrained` loads.
        sizes: of the parts.
        tokenizer: the flat world's where it is None.
        world: what the model says that it draws, see deepgen/worlds.py.
    """
    vlm, connector = _reader(Path(vlm_dir), sizes)
    transformer = DeepGenTransformer2DModel(**sizes.transformer)
    load_weights(transformer, Path(transformer_dir))
    pipe = DeepGenPipeline(
        vlm=vlm,
        connector=connector,
        transformer=transformer,
        vae=AutoencoderKL.from_pretrained(vae_dir),
        scheduler=FlowMatchEulerDiscreteScheduler(**sizes.scheduler),
        tokenizer=tokenizer or load_tokenizer(),
        defaults=sizes.defaults,
        world=world,
    )
    pipe.to(torch.bfloat16).save_pretrained(output_dir)
    for file in Path(output_dir).glob("*/config.json"):  # where a part was loaded from is of no use elsewhere
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")


def _reader(source: Path, sizes: Architecture) -> tuple[DeepGenVLM, StackedChannelBridge]:
    """VLM and connector of a run or of a pipeline folder."""
    if (source / "model_index.json").is_file():
        pipe = DeepGenPipeline.from_pretrained(source, dtype=torch.float32)
        return pipe.vlm, pipe.connector
    vlm = DeepGenVLM(Qwen2_5_VLConfig(**sizes.vlm))
    connector = StackedChannelBridge(**sizes.connector)
    load_weights(vlm, source, "vlm.")
    load_weights(connector, source, "connector.")
    return vlm, connector


def finish_vae(run_dir: str | Path, output_dir: str | Path) -> None:
    """Write a run of `tiny-vae` as a diffusers VAE folder whose latents have unit deviation."""
    vae = AutoencoderKL(**DEEPGEN_TINY.vae)
    load_weights(vae, Path(run_dir))
    normalize_latents(vae, to_pixels([scene_entry(0, index) for index in range(256)]))
    vae.save_pretrained(output_dir)


__getattr__ = renamed(
    __name__,
    {
        "storybook_vae": "deepgen.tiny.recipes.storybook_vae",
        "storybook_vlm": "deepgen.tiny.recipes.storybook_vlm",
        "storybook_dit": "deepgen.tiny.recipes.storybook_dit",
        "finish_storybook_vae": "deepgen.tiny.recipes.finish_vae",
    },
)
