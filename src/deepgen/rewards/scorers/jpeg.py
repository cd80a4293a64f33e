"""How large a picture is as a JPEG file: a reward that needs no model and shows that learning works at all.

Detail makes a file large and flat areas make it small (Black et al., 2023, use both directions).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from deepgen.image_colors import to_srgb
from deepgen.rewards.reward import Candidate, EachAlone, RewardResult


@dataclass(frozen=True, kw_only=True)
class JPEGOptions:
    """Whether large or small files are good, and the quality they are written with."""

    prefer: Literal["large", "small"] = "small"
    quality: int = 95

    def __post_init__(self) -> None:
        """Beyond 95 JPEG files only grow."""
        if not 1 <= self.quality <= 95:
            raise ValueError(f"quality must be 1 to 95, got {self.quality}")


class JPEG(EachAlone):
    """Size of the picture as a JPEG file in kB (1000 bytes), negative where small is good."""

    low, high = -float("inf"), float("inf")

    def __init__(self, options: JPEGOptions) -> None:
        self.options = options
        self.version = f"jpeg-1-{options.prefer}-q{options.quality}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """Writes the file into memory."""
        buffer = BytesIO()
        to_srgb(candidate.image).save(buffer, "JPEG", quality=self.options.quality)
        size = len(buffer.getvalue()) / 1000
        return RewardResult(size if self.options.prefer == "large" else -size, f"{size:.1f} kB")


options, reward = JPEGOptions, JPEG
