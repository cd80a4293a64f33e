"""How much of the source an edit left alone outside the edited region.

The region is a mask in the row's metadata, or is found from the difference: the blocks that changed most,
grown by one block around them. What is found that way is limited to a share of the picture, so an edit that
repaints everything cannot declare everything to be its region.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepgen.image_colors import to_srgb
from deepgen.rewards.reward import Candidate, CannotJudge, EachAlone, RewardResult
from deepgen.rewards.wire import decode_image, encode_image

_BLOCKS = 16  # blocks along each side


@dataclass(frozen=True, kw_only=True)
class PreservationOptions:
    """How a region is found, and when it counts as kept.

    Attributes:
        threshold: mean difference of a block, of 255, from which it was edited.
        largest_region: share of the picture a region that was found may have.
        worst_psnr, best_psnr: dB outside the region that are worth 0 and 1.
    """

    threshold: float = 12.0
    largest_region: float = 0.5
    worst_psnr: float = 15.0
    best_psnr: float = 40.0

    def __post_init__(self) -> None:
        """Refuse a scale that is none."""
        if self.worst_psnr >= self.best_psnr:
            raise ValueError(
                f"worst_psnr must be below best_psnr, got {self.worst_psnr} and {self.best_psnr}"
            )
        if not 0 < self.largest_region < 1:
            raise ValueError(f"largest_region is a share between 0 and 1, got {self.largest_region}")


class Preservation(EachAlone):
    """Likeness to the source outside the edited region: the mean of PSNR, scaled, and of SSIM."""

    needs = ("references",)

    def __init__(self, options: PreservationOptions) -> None:
        self.options = o = options
        self.version = f"preservation-1-{o.threshold:g}-{o.largest_region:g}-{o.worst_psnr:g}-{o.best_psnr:g}"

    def judge(self, candidate: Candidate) -> RewardResult:
        """Compares with the first reference, resized where the result has another size of the same shape.

        `mask` of the metadata is a base64 PNG, white where the edit was to happen.
        """
        result = to_srgb(candidate.image)
        source = _fitted(to_srgb(candidate.references[0]), result.size)
        first, second = np.asarray(source, np.float64), np.asarray(result, np.float64)  # (H, W, 3)
        mask = candidate.metadata.get("mask")
        region = self._found_region(first, second) if mask is None else given_region(mask, result.size)
        outside = ~region
        if not outside.any():
            raise CannotJudge("the mask covers the whole picture, so there is nothing to keep")
        error = ((first - second) ** 2).mean(-1)[outside].mean()
        psnr = 10 * np.log10(255**2 / max(error, 1e-6))
        low, high = self.options.worst_psnr, self.options.best_psnr
        scaled = float(np.clip((psnr - low) / (high - low), 0, 1))
        likeness = float(np.clip(ssim_map(first.mean(-1), second.mean(-1))[outside].mean(), 0, 1))
        words = f"PSNR {psnr:.1f} dB and SSIM {likeness:.2f} outside {region.mean():.0%} of the picture"
        return RewardResult((scaled + likeness) / 2, words)

    def _found_region(self, source: np.ndarray, result: np.ndarray) -> np.ndarray:
        """Blocks that changed, and their neighbours: bool (H, W)."""
        difference = np.abs(source - result).mean(-1)
        height, width = difference.shape
        rows, columns = (np.arange(n) * _BLOCKS // n for n in (height, width))  # block of each pixel
        sums = np.zeros((_BLOCKS, _BLOCKS))
        counts = np.zeros((_BLOCKS, _BLOCKS))
        np.add.at(sums, (rows[:, None], columns[None]), difference)
        np.add.at(counts, (rows[:, None], columns[None]), 1)
        means = sums / np.maximum(counts, 1)
        order = np.argsort(-means, axis=None)[: int(self.options.largest_region * means.size)]
        is_edited = np.zeros(means.size, dtype=bool)
        is_edited[order] = means.ravel()[order] > self.options.threshold
        padded = np.pad(is_edited.reshape(means.shape), 1)
        grown = np.any([padded[y : y + _BLOCKS, x : x + _BLOCKS] for y in range(3) for x in range(3)], axis=0)
        if grown.mean() > self.options.largest_region:  # growing must not pass the limit either
            grown = is_edited.reshape(means.shape)
        return grown[rows[:, None], columns[None]]


def given_region(mask: object, size: tuple[int, int]) -> np.ndarray:
    """The region of a mask as base64 PNG: bool (H, W), true where it is more white than black."""
    image = decode_image(mask)
    return np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST)) > 127


def mask_text(region: np.ndarray) -> str:
    """A bool (H, W) region as the metadata carries it."""
    image = Image.fromarray(region.astype(np.uint8) * 255)
    return base64.b64encode(encode_image(image, "png")).decode()


def ssim_map(first: np.ndarray, second: np.ndarray, window: int = 7) -> np.ndarray:
    """Structural similarity (Wang et al., 2004) of two grey pictures (H, W) of 0 to 255, with a box window;
    (H, W), at most 1.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = _box_mean(first, window), _box_mean(second, window)
    var_1 = _box_mean(first**2, window) - mean_1**2
    var_2 = _box_mean(second**2, window) - mean_2**2
    covariance = _box_mean(first * second, window) - mean_1 * mean_2
    top = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return top / ((mean_1**2 + mean_2**2 + c1) * (var_1 + var_2 + c2))


def _box_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over a window around each pixel, the rim mirrored: (H, W)."""
    padded = np.pad(values, window // 2, mode="reflect")
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    total = (
        sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    )
    return total / window**2


def _fitted(source: Image.Image, size: tuple[int, int]) -> Image.Image:
    if source.size == size:
        return source
    shapes = [width / height for width, height in (source.size, size)]
    if abs(shapes[0] / shapes[1] - 1) > 0.02:
        raise CannotJudge(f"the source is {source.size} and the result {size}: they cannot be compared")
    return source.resize(size, Image.Resampling.LANCZOS)


options, reward = PreservationOptions, Preservation
