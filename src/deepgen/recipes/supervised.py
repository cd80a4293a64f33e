"""The supervised recipes: the two published stages, and fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepgen.training.config import TrainConfig
from deepgen.training.stages.alignment import AlignmentConfig
from deepgen.training.stages.lora import LoraConfig
from deepgen.training.stages.sft import SFTConfig

PUBLISHED = "deepgenteam/DeepGen-1.0-diffusers"
_MIXTURES = Path(__file__).parent / "mixtures"


def alignment() -> TrainConfig:
    """Stage 1 as published: a fresh connector between plain Qwen2.5-VL and UniPic2; set `data_root`.

    `vlm`, `transformer` and `vae` name other base models, `model` one that has all parts.
    """
    return AlignmentConfig(model=None, new_connector=True, ema_decay=None, data=_MIXTURES / "stage1.yaml")


def sft() -> TrainConfig:
    """Stage 2 as published; set `data_root`, and `model` to the export of stage 1.

    A `model` in the original's layout leaves parts out; `vlm`, `transformer` and `vae` name them.
    """
    return SFTConfig(model=PUBLISHED, ema_decay=None, data=_MIXTURES / "stage2.yaml")


def sft_24gb() -> TrainConfig:
    """Stage 2 for one card of 24 GB: a LoRA of the DiT instead of all of it, activations computed again."""
    return replace(
        SFTConfig(model=PUBLISHED, data=_MIXTURES / "stage2.yaml"),
        trains_transformer=False,
        transformer_lora=SFTConfig().vlm_lora,
        is_checkpointing_activations=True,
        global_batch_size=48,
        micro_batch_size=1,
    )


def lora() -> TrainConfig:
    """Fine-tuning on a folder of pictures; set `data`, and `model` to what is to learn."""
    return LoraConfig(model=PUBLISHED)


RECIPES = {"alignment": alignment, "sft": sft, "sft-24gb": sft_24gb, "lora": lora}
