"""The recipes of the model of flat shapes, in the order they are run; docs/shapes/README.md has the commands
and the figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig

from deepgen.models.config import DEEPGEN_SHAPES, Architecture
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline
from deepgen.shapes.entries import scene_entry
from deepgen.training.config import TrainConfig
from deepgen.training.pool import load_tokenizer, load_weights, to_pixels
from deepgen.training.stages.shapes_dit import ShapesDiTConfig
from deepgen.training.stages.shapes_vae import ShapesVAEConfig, fit_float16, normalize_latents
from deepgen.training.stages.shapes_vlm import ShapesVLMConfig
from deepgen.worlds import SHAPES


def shapes_vae() -> TrainConfig:
    """The autoencoder."""
    return ShapesVAEConfig(seed=7)


def shapes_vlm() -> TrainConfig:
    """VLM and connector, onto the slot code."""
    return ShapesVLMConfig(seed=13)


def shapes_dit() -> TrainConfig:
    """The DiT, from the slot code."""
    return ShapesDiTConfig()


RECIPES = {
    "shapes-vae": shapes_vae,
    "shapes-vlm": shapes_vlm,
    "shapes-dit": shapes_dit,
}


def assemble(
    vae_dir: str | Path,
    vlm_dir: str | Path,
    transformer_dir: str | Path,
    output_dir: str | Path,
    sizes: Architecture = DEEPGEN_SHAPES,
    tokenizer: PreTrainedTokenizerBase | None = None,
    world: str | None = SHAPES,
) -> None:
    """Write the finished runs as one pipeline folder in bfloat16.

    Args:
        vae_dir: folder of the VAE with its latent statistics in the config.
        vlm_dir: run of `shapes-vlm`, or a pipeline folder whose VLM and connector to keep.
        transformer_dir: run of `shapes-dit`.
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
    """Write a run of `shapes-vae` as a diffusers VAE folder whose latents have unit deviation, and which
    float16 can hold.
    """
    vae = AutoencoderKL(**DEEPGEN_SHAPES.vae)
    load_weights(vae, Path(run_dir))
    pixels = to_pixels([scene_entry(0, index) for index in range(256)])
    fit_float16(vae, pixels)
    normalize_latents(vae, pixels)
    vae.save_pretrained(output_dir)
