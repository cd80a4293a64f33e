"""Whether a picture changed as its description did: directional similarity in CLIP's space (StyleGAN-NADA,
Gal et al., 2022; InstructPix2Pix, Brooks et al., 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.reward import Candidate, Kind, RewardResult

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClipDirectionOptions(TowerOptions):
    """Which CLIP; ViT-L/14 is what InstructPix2Pix is measured with.

    Attributes:
        smallest_change: length of a difference of two unit vectors below which nothing changed.
    """

    model: str = "openai/clip-vit-large-patch14"
    smallest_change: float = 1e-3


class ClipDirection:
    """Cosine of the change from source to result and the change from `caption_before` to `caption_after`.

    Both captions are fields of the row. A result equal to its source scores 0, as one that went sideways;
    captions that say the same give no score.
    """

    kind: Kind = "pointwise"
    needs = ("references", "caption_before", "caption_after")
    low, high = -1.0, 1.0
    concurrency = 1

    def __init__(self, options: ClipDirectionOptions) -> None:
        self.options = options
        self._tower = ClipTower(options)
        self.version = f"clip-direction-1-{self._tower.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each."""
        verdicts = []
        for first in range(0, len(candidates), self.options.batch_size):
            batch = candidates[first : first + self.options.batch_size]
            after = self._tower.embed_images([one.image for one in batch])  # (N, D)
            before = self._tower.embed_images([one.references[0] for one in batch])
            said_after = self._tower.embed_texts([str(one.metadata["caption_after"]) for one in batch])
            said_before = self._tower.embed_texts([str(one.metadata["caption_before"]) for one in batch])
            verdicts += map(self._verdict, after - before, said_after - said_before)
        return verdicts

    def _verdict(self, seen: Tensor, said: Tensor) -> RewardResult:
        """Of the change in a picture and of that in its caption, (D,) each."""
        if float(said.norm()) < self.options.smallest_change:
            return RewardResult(None, "caption_before and caption_after say the same; there is no direction")
        if float(seen.norm()) < self.options.smallest_change:
            return RewardResult(0.0, "the picture did not change")
        return RewardResult(float(seen @ said / (seen.norm() * said.norm())))


options, reward = ClipDirectionOptions, ClipDirection
