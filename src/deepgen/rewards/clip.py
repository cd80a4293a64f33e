"""CLIP towers: unit vectors of pictures and texts, from a Hub id or a folder in transformers' form.

Pictures are prepared here as CLIP's own processor does it (shortest side to the tower's size, bicubic, centre
crop, CLIP's mean and deviation), since that processor would pull in a package we do not need otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from deepgen.image_colors import to_srgb
from deepgen.rewards.reward import Candidate, Kind, RewardResult

if TYPE_CHECKING:
    from torch import Tensor

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class TowerOptions:
    """Which CLIP, and where it runs.

    Attributes:
        model: Hub id or folder of a CLIPModel.
        tokenizer: Hub id or folder of its tokenizer; None where it lies beside the model.
        revision: commit of the Hub id.
        device: auto is cuda where there is one.
        dtype: of weights and arithmetic; scores of two dtypes differ in the third digit.
        batch_size: pictures at a time.
    """

    model: str
    tokenizer: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Refuse batches of nothing."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


class ClipTower:
    """A frozen CLIPModel. Calls from several threads wait for each other."""

    def __init__(self, options: TowerOptions, *, has_text: bool = True) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPModel

        self.options = options
        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = CLIPModel.from_pretrained(
            options.model, revision=options.revision, dtype=getattr(torch, options.dtype)
        )
        self._model.requires_grad_(False).eval().to(device)
        self._size = int(self._model.config.vision_config.image_size)
        self._tokenizer: Any = None
        if has_text:
            elsewhere = options.tokenizer is not None
            self._tokenizer = AutoTokenizer.from_pretrained(
                options.tokenizer if elsewhere else options.model,
                revision=None if elsewhere else options.revision,
            )
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """Weights and number format in one word."""
        revision = "" if self.options.revision is None else f"@{self.options.revision}"
        return f"{self.options.model}{revision}-{self.options.dtype}"

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied with, at most 100 in trained models."""
        return float(self._model.logit_scale.float().exp())

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors float32 (N, D), on the CPU."""
        import torch

        pixels = torch.from_numpy(np.stack([prepare(image, self._size) for image in images]))
        with self._lock, torch.no_grad():
            pixels = pixels.to(self._model.device, self._model.dtype)  # (N, 3, S, S)
            pooled = self._model.vision_model(pixel_values=pixels).pooler_output  # (N, W)
            return torch.nn.functional.normalize(self._model.visual_projection(pooled).float(), dim=-1).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 (N, D), on the CPU; texts beyond the tower's length (77 tokens) are cut."""
        import torch

        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
            padding_side="right",
        )
        with self._lock, torch.no_grad():
            pooled = self._model.text_model(
                input_ids=tokens["input_ids"].to(self._model.device),
                attention_mask=tokens["attention_mask"].to(self._model.device),
            ).pooler_output  # (N, W)
            return torch.nn.functional.normalize(self._model.text_projection(pooled).float(), dim=-1).cpu()


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """A picture as CLIP sees it: float32 (3, size, size)."""
    image = to_srgb(image)  # which may turn it
    width, height = image.size
    scale = size / min(width, height)
    resized = image.resize(
        (max(size, int(width * scale)), max(size, int(height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)), np.float32) / 255
    return ((pixels - np.array(_MEAN, np.float32)) / np.array(_DEVIATION, np.float32)).transpose(2, 0, 1)


class ClipImageTextScorer:
    """The cosine of an image and a text in a CLIP tower; a `deepgen.rewards.interfaces.ImageTextScorer`."""

    def __init__(self, model: str, device: str = "auto") -> None:
        self._tower = ClipTower(TowerOptions(model=model, device=device))
        self.version = self._tower.version

    def __call__(self, image: Image.Image, text: str) -> float:
        """In [-1, 1]; the text is cut where the tower ends."""
        images, texts = self._tower.embed_images([image]), self._tower.embed_texts([text])
        return float((images * texts).sum())


class TextLikeness:
    """Base of rewards that are a multiple of the cosine between a picture and its prompt."""

    kind: Kind = "pointwise"
    needs: tuple[str, ...] = ()
    low: float = -1.0
    high: float = 1.0
    concurrency = 1
    name = "clip"

    def __init__(self, options: TowerOptions) -> None:
        self.options = options
        self._tower = ClipTower(options)
        self._factor = self.factor(self._tower)

    def factor(self, tower: ClipTower) -> float:
        """What the cosine is multiplied with."""
        return 1.0

    @property
    def precision(self) -> float:
        """Cosines differ by rounding of the tower's number format where their batches did."""
        import torch

        return abs(self._factor) * torch.finfo(getattr(torch, self.options.dtype)).eps

    @property
    def version(self) -> str:
        """The formula and the tower."""
        return f"{self.name}-1-{self._tower.version}"

    def __call__(self, candidates: Sequence[Candidate]) -> list[RewardResult]:
        """One verdict each."""
        verdicts = []
        for first in range(0, len(candidates), self.options.batch_size):
            batch = candidates[first : first + self.options.batch_size]
            images = self._tower.embed_images([candidate.image for candidate in batch])  # (N, D)
            texts = self._tower.embed_texts([candidate.prompt for candidate in batch])  # (N, D)
            verdicts += [RewardResult(self._factor * float(cosine)) for cosine in (images * texts).sum(-1)]
        return verdicts
