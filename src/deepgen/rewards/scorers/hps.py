"""HPS v2.1 (Wu et al., 2023): human preference from a CLIP ViT-H/14 trained on ranked pictures.

The published file is of OpenCLIP's form. Give `model` a copy in transformers' form, converted with
transformers' own script, and `tokenizer` that of laion/CLIP-ViT-H-14-laion2B-s32B-b79K.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.clip import ClipTower, TextLikeness, TowerOptions


@dataclass(frozen=True, kw_only=True)
class HPSOptions(TowerOptions):
    """The weights have to be named; the tokenizer is that of the CLIP they were trained from."""

    tokenizer: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class HPS(TextLikeness):
    """Twice the cosine of picture and prompt, about 0.5 to 0.7."""

    low, high = -2.0, 2.0
    name = "hps"

    def factor(self, tower: ClipTower) -> float:
        """The cosine is doubled, as the original does, to be of the size of other rewards."""
        return 2.0


options, reward = HPSOptions, HPS
