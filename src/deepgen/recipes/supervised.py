"""The supervised recipes: the two published stages, and fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepgen.train.loop import TrainConfig
from deepgen.train.stages.alignment import AlignmentConfig
from deepgen.train.stages.lora import LoraConfig
from deepgen.train.stages.sft import SFTConfig

PUBLISHED = "deepgenteam/DeepGen-1.0-diffusers"
_MIXTURES = Path(__file__).parent / "mixtures"


def alignment() -> TrainConfig:
    """Stage 1 as published, with a fresh connector between the parts of `model`; set `data_root`."""
    return AlignmentConfig(model=PUBLISHED, new_connector=True, data=_MIXTURES / "stage1.yaml")


def sft() -> TrainConfig:
    """Stage 2 as published; set `data_root`, and `model` to the export of stage 1."""
    return SFTConfig(model=PUBLISHED, data=_MIXTURES / "stage2.yaml")


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
