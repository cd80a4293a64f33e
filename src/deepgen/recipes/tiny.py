"""The recipes of DeepGen-Tiny, in the order they are run; docs/tiny/README.md has the commands and the
figures.
"""

from __future__ import annotations

from deepgen.train.loop import TrainConfig
from deepgen.train.optim import OptimConfig
from deepgen.train.stages.tiny_dit import TinyDiTConfig
from deepgen.train.stages.tiny_vae import TinyVAEConfig
from deepgen.train.stages.tiny_vlm import TinyVLMConfig


def tiny_vae() -> TrainConfig:
    """The autoencoder."""
    return TinyVAEConfig(seed=7)


def tiny_vae_decoder() -> TrainConfig:
    """Its decoder once more, on noisy latents; set `start` to the VAE."""
    return TinyVAEConfig(
        num_steps=900,
        seed=8,
        batch_size=12,
        whole_share=0.1,
        decoder_noise=0.35,
        optim=OptimConfig(lr=1e-3, muon_lr=0.01, warmup_steps=10, decay_share=1.0),
    )


def tiny_vlm() -> TrainConfig:
    """VLM and connector, onto the slot code."""
    return TinyVLMConfig(seed=13)


def tiny_dit() -> TrainConfig:
    """The DiT, from the slot code."""
    return TinyDiTConfig()


RECIPES = {
    "tiny-vae": tiny_vae,
    "tiny-vae-decoder": tiny_vae_decoder,
    "tiny-vlm": tiny_vlm,
    "tiny-dit": tiny_dit,
}
