"""PickScore (Kirstain et al., 2023): which picture people would pick, from a CLIP trained on their picks."""

from __future__ import annotations

from dataclasses import dataclass

from deepgen.rewards.clip import ClipTower, TextLikeness, TowerOptions


@dataclass(frozen=True, kw_only=True)
class PickScoreOptions(TowerOptions):
    """The published weights, whose tokenizer is that of the CLIP they were trained from."""

    model: str = "yuvalkirstain/PickScore_v1"
    tokenizer: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


class PickScore(TextLikeness):
    """PickScore's logit (100 times the cosine) over 26, about 0.7 to 1."""

    low, high = -100 / 26, 100 / 26
    name = "pickscore"

    def factor(self, tower: ClipTower) -> float:
        """The logit scale over 26, as is usual so that good pictures are near 1."""
        return tower.logit_scale / 26


options, reward = PickScoreOptions, PickScore
