"""The recipes of distillation: few steps without a negative branch, from a model with its guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepgen.distillation.recipe import DistillConfig
from deepgen.moved import renamed
from deepgen.training.adapters import LoraSettings
from deepgen.training.config import TrainConfig
from deepgen.training.optim import OptimConfig, ParamGroup

PUBLISHED = "deepgenteam/DeepGen-1.0-diffusers"
_MIXTURES = Path(__file__).parent / "mixtures"


def distill() -> TrainConfig:
    """Four steps for the 5B model, as a LoRA of its DiT; set `prompts`: captions and edits with references.

    Sizes of RTDMD (Harahan/RTDMD) for SD3.5-Medium at 512 pixels: rank 32, prompts alone.
    """
    return DistillConfig(
        model=PUBLISHED,
        num_steps=4000,
        optim=OptimConfig(lr=1e-4, muon_lr=None, warmup_steps=100, betas=(0.9, 0.99)),
        transformer_lora=LoraSettings(rank=32, alpha=32, dropout=0.0, targets="linear"),
        num_inference_steps=(4, 8),
        paths_per_round=128,
        passes_per_round=2,
        updates_per_pass=4,
        teacher_steps=24,
        micro_batch_size=4,
        sizes=("512x512", "576x448", "448x576", "640x384", "384x640"),
        is_checkpointing_activations=True,
    )


def distill_shapes() -> TrainConfig:
    """The embedded flat model in 4, 2, 8 and 1 steps; docs/distillation.md has the figures, and how the
    weights in the package were made.
    """
    return DistillConfig(
        model="shapes",
        prompts=_MIXTURES / "distill-shapes.yaml",
        num_steps=800,
        optim=OptimConfig(lr=1e-3, muon_lr=None, warmup_steps=20, decay_share=0.5, betas=(0.9, 0.99)),
        ema_decay=0.99,
        transformer_lora=LoraSettings(rank=32, alpha=32, dropout=0.0, targets="linear"),
        num_inference_steps=(4, 2, 8, 1),
        level_mean=0.3,
        paths_per_round=64,
        passes_per_round=4,
        updates_per_pass=4,
        teacher_steps=12,
        micro_batch_size=64,
        save_every=32,
        log_every=16,
        num_threads=1,
    )


def distill_tiny() -> TrainConfig:
    """The small model in 4, 2 and 1 steps without a negative branch, as `distill-shapes`."""
    return replace(
        distill_shapes(),
        model="tiny",
        prompts=_MIXTURES / "distill-tiny.yaml",
        num_inference_steps=(4, 2, 1),
        teacher_steps=8,
    )


def distill_shapes_matching() -> TrainConfig:
    """The flat model's second half: `student` is a run of `distill-shapes`, which goes on by matching."""
    return replace(
        distill_shapes(),
        objective="distribution-matching",
        num_steps=1200,
        optim=OptimConfig(
            lr=3e-4,
            muon_lr=None,
            betas=(0.0, 0.99),
            warmup_steps=60,
            decay_share=0.4,
            groups=(ParamGroup(prefix="fake", lr=1e-3),),
        ),
        first_share=0.8,
        paths_per_round=48,
        save_every=60,
        log_every=30,
    )


RECIPES = {
    "distill": distill,
    "distill-tiny": distill_tiny,
    "distill-shapes": distill_shapes,
    "distill-shapes-matching": distill_shapes_matching,
}

__getattr__ = renamed(__name__, {"distill_tiny_matching": "deepgen.recipes.distill.distill_shapes_matching"})
