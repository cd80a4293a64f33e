"""CLIP similarity: how near a picture and its prompt are in CLIP's space (Radford et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.clip import TextLikeness, TowerOptions


@dataclass(frozen=True, kw_only=True)
class ClipSimOptions(TowerOptions):
    """Which CLIP; ViT-L/14 is what the original trained with."""

    model: str = "openai/clip-vit-large-patch14"


class ClipSim(TextLikeness):
    """Cosine of picture and prompt, about 0.15 to 0.35 with ViT-L/14; prompts are cut at 77 tokens."""

    name = "clip-sim"


options, reward = ClipSimOptions, ClipSim
