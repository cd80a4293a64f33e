"""How near a picture is to its first reference: for reconstruction, or an edit that should change little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepgen.image_colors import to_srgb
from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult


@dataclass(frozen=True, kw_only=True)
class PSNROptions:
    """`most` is what equal pictures get, in dB, where the formula has no bound."""

    most: float = 60.0


class PSNR(EachAlone):
    """Peak signal-to-noise ratio against the first reference, in dB."""

    needs = ("references",)
    high = float("inf")

    def __init__(self, options: PSNROptions) -> None:
        self.options = options
        self.high = options.most
        self.version = f"psnr-1-most{options.most:g}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """10 log10(255^2 / mean squared error); CannotJudge where the sizes differ."""
        first, second = to_srgb(candidate.image), to_srgb(candidate.references[0])
        if first.size != second.size:
            raise CannotJudge(f"the picture is {first.size} and its reference {second.size}")
        error = np.mean((np.asarray(first, np.float64) - np.asarray(second, np.float64)) ** 2)
        value = self.options.most if error == 0 else 10 * np.log10(255**2 / error)
        return RewardResult(float(min(value, self.options.most)), f"{value:.1f} dB")


options, reward = PSNROptions, PSNR
