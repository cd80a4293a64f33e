"""LAION's aesthetic predictor (Schuhmann, 2022): a small network on CLIP's vectors, trained on ratings.

It knows nothing of the prompt: a pretty picture of the wrong thing gets full marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.reward import Candidate, Kind, RewardResult

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AestheticOptions(TowerOptions):
    """`head_path` is the predictor's file, such as sac+logos+ava1-l14-linearMSE.pth, or the same as
    safetensors.
    """

    head_path: str
    model: str = "openai/clip-vit-large-patch14"


class Aesthetic:
    """Predicted rating of a picture's looks, about 1 to 10, without a bound."""

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low, high = -float("inf"), float("inf")
    concurrency = 1

    def __init__(self, options: AestheticOptions) -> None:
        self.options = options
        self._layers = read_head(Path(options.head_path).expanduser())
        self._tower = ClipTower(options, has_text=False)
        self.version = f"aesthetic-1-{Path(options.head_path).stem}-{self._tower.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each."""
        verdicts = []
        for first in range(0, len(candidates), self.options.batch_size):
            batch = candidates[first : first + self.options.batch_size]
            values = self._tower.embed_images([candidate.image for candidate in batch])  # (N, D)
            for (
                weight,
                bias,
            ) in self._layers:  # linear one after the other: it was trained without activations
                values = values @ weight.T + bias
            verdicts += [RewardResult(float(score)) for score in values[:, 0]]
        return verdicts


def read_head(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in) and biases (out,) of the linear layers in order, float32; no code is unpickled."""
    import torch
    from safetensors.torch import load_file

    tensors: Mapping[str, Tensor] = (
        load_file(path)
        if path.suffix == ".safetensors"
        else torch.load(path, map_location="cpu", weights_only=True)
    )
    numbers = sorted(int(m[1]) for key in tensors if (m := re.fullmatch(r"layers\.(\d+)\.weight", key)))
    if not numbers or len(tensors) != 2 * len(numbers):
        raise ValueError(f"{path} is no aesthetic predictor: it holds {', '.join(sorted(tensors)[:4])}")
    layers = [(tensors[f"layers.{n}.weight"].float(), tensors[f"layers.{n}.bias"].float()) for n in numbers]
    if layers[-1][0].shape[0] != 1:
        raise ValueError(f"{path} predicts {layers[-1][0].shape[0]} numbers, expected one rating")
    return layers


options, reward = AestheticOptions, Aesthetic
