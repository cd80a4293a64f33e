"""The recipes of the storybook model: its parts, then the three published stages.

The parts stand for the pre-trained VLM and DiT of the large model: `storybook-vae`, then `storybook-vlm` and
`storybook-dit` in any order, and last `storybook-decoder`; `finish_vae` and `assemble` make a pipeline folder
of them. The model `tiny` inside the package is such a folder, and the published stages begin with it
unless `model` names another. Rates of those stages are the ones that served the flat world
(docs/shapes/README.md); batches fit two CPU cores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from deepgen.models.config import DEEPGEN_TINY
from deepgen.recipes import shapes
from deepgen.recipes.rl import rl_tiny
from deepgen.rl.evaluation import RLEvaluationConfig
from deepgen.rl.recipe import RLConfig
from deepgen.tiny.sample import sample_scene
from deepgen.tiny.stages.dit import StorybookDiTConfig, load_vae
from deepgen.tiny.stages.vae import StorybookVAEConfig
from deepgen.tiny.stages.vlm import StorybookVLMConfig, to_pixels
from deepgen.tiny.tokenizer import load_tokenizer
from deepgen.training.config import TrainConfig
from deepgen.training.optim import OptimConfig
from deepgen.training.pool import load_weights
from deepgen.training.stages.alignment import AlignmentConfig
from deepgen.training.stages.sft import SFTConfig
from deepgen.training.stages.shapes_vae import fit_float16, normalize_latents
from deepgen.worlds import STORYBOOK

START = "tiny"  # the pre-trained parts inside the package, where no `model` is given
_MIXTURES = Path(__file__).parents[1] / "recipes" / "mixtures"


def storybook_vae() -> TrainConfig:
    """The autoencoder; 25 minutes of one core to 31.6 dB.

    Afterwards `storybook-decoder` trains the decoder on, while the DiT learns and after that.
    """
    return StorybookVAEConfig(num_steps=3000, seed=7, detail_weight=0.2)


def storybook_decoder() -> TrainConfig:
    """The decoder alone, on what it gives back unreadable and on what the DiT draws; set `start` and `dit`.

    What looked like a DiT that blurs was mostly this decoder: docs/tiny/README.md.
    """
    return StorybookVAEConfig(
        num_steps=4000,
        seed=7,
        optim=OptimConfig(
            lr=2e-3,
            muon_lr=0.01,
            weight_decay=0.05,
            decay_share=0.7,
            muon_dtype="bfloat16",
            warmup_steps=30,
        ),
        trains_encoder=False,
        whole_share=1,
        detail_weight=0.4,
        detail_power=1.5,
        hard_share=0.6,
        drawn_share=0.6,
        drawn_pool=6144,
    )


def storybook_vlm() -> TrainConfig:
    """VLM and connector, onto the world's codes."""
    return StorybookVLMConfig()


def storybook_dit() -> TrainConfig:
    """The DiT, from the world's codes."""
    return StorybookDiTConfig()


def storybook_alignment() -> TrainConfig:
    """Stage 1: the connector alone."""
    return AlignmentConfig(
        model=START,
        data=_MIXTURES / "storybook.yaml",
        num_steps=600,
        optim=OptimConfig(lr=1e-3, muon_lr=None, weight_decay=0.05, warmup_steps=40, decay="cosine"),
        global_batch_size=96,
        micro_batch_size=32,
        ema_decay=0.99,
        save_every=100,
        keep=2,
    )


def storybook_sft() -> TrainConfig:
    """Stage 2: connector, DiT and a LoRA of the VLM."""
    return SFTConfig(
        model=START,
        data=_MIXTURES / "storybook.yaml",
        num_steps=400,
        optim=OptimConfig(
            lr=1e-3, muon_lr=0.003, weight_decay=0, warmup_steps=20, decay="linear", decay_share=0.9
        ),
        global_batch_size=96,
        micro_batch_size=48,
        ema_decay=0.99,
        save_every=100,
        keep=2,
    )


def storybook_rl() -> RLConfig:
    """Stage 3 on the exact reward, with a little of stage 2's loss; looks at every kind first and last.

    Rollouts are as in `rl-tiny`.
    """
    return replace(
        rl_tiny(),
        prompts=_MIXTURES / "storybook-rl.yaml",
        optim=OptimConfig(lr=1e-3, muon_lr=None, betas=(0.9, 0.99), warmup_steps=5, decay_share=0.3),
        sft_coef=1e-3,
        data=_MIXTURES / "storybook.yaml",
        global_batch_size=24,
        micro_batch_size=24,
        rollout_batch_size=64,
        evaluation=RLEvaluationConfig(
            prompts=_MIXTURES / "storybook-gate.yaml", every=100, prompts_per_set=16, batch_size=32
        ),
    )


RECIPES = {
    "storybook-vae": storybook_vae,
    "storybook-decoder": storybook_decoder,
    "storybook-vlm": storybook_vlm,
    "storybook-dit": storybook_dit,
    "storybook-alignment": storybook_alignment,
    "storybook-sft": storybook_sft,
    "storybook-rl": storybook_rl,
}


def finish_vae(run_dir: str | Path, output_dir: str | Path, encoder_dir: str | Path | None = None) -> None:
    """Write a run of `storybook-vae` as a diffusers VAE folder whose latents have unit deviation, and which
    float16 can hold.

    Args:
        run_dir: the run.
        output_dir: the folder.
        encoder_dir: for a run that trained the decoder alone, the finished folder it began with; latents and
            their statistics stay that folder's.
    """
    if encoder_dir is not None:
        vae = load_vae(Path(encoder_dir))
        load_weights(vae.decoder, Path(run_dir), "decoder.")
    else:
        vae = load_vae(Path(run_dir))
        rng = np.random.default_rng(0)
        pixels = to_pixels([sample_scene(rng) for _ in range(256)])
        fit_float16(vae, pixels)
        normalize_latents(vae, pixels)
    vae.save_pretrained(output_dir)


def assemble(
    vae_dir: str | Path, vlm_dir: str | Path, transformer_dir: str | Path, output_dir: str | Path
) -> None:
    """Write the finished parts as one pipeline folder in bfloat16, see `deepgen.recipes.shapes.assemble`."""
    shapes.assemble(vae_dir, vlm_dir, transformer_dir, output_dir, DEEPGEN_TINY, load_tokenizer(), STORYBOOK)
