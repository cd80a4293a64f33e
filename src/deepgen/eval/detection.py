"""GenEval's eyes: Mask2Former for objects, CLIP for their colors; and CLIP alone for CLIPScore.

Published GenEval numbers were made with the same network in another library and another checkpoint; how far
scores move is not known, so the version names what was used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.detector import COLORS, box_of, instances, prepare

# Names GenEval has for classes of COCO that detectors call otherwise.
RENAMED = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "hair dryer": "hair drier",
}
_TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
_GREY = (153, 153, 153)  # what the rest of the picture is painted with, #999


class ObjectFinder:
    """Objects with their masks, from a transformers Mask2Former. Calls from several threads wait for each
    other.
    """

    def __init__(self, model: str, clip: str, device: str = "auto") -> None:
        import torch
        from transformers import Mask2FormerForUniversalSegmentation

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = Mask2FormerForUniversalSegmentation.from_pretrained(model)
        self._model.requires_grad_(False).eval().to(device)
        self._tower = ClipTower(TowerOptions(model=clip, device=device))
        self._texts: dict[str, Any] = {}
        self._last: tuple[int, dict[str, list[np.ndarray]]] = (0, {})
        self._lock = threading.RLock()
        self.names = {
            int(index): RENAMED.get(str(name), str(name))
            for index, name in self._model.config.id2label.items()
        }
        self.version = f"{model}+{self._tower.version}"

    def __call__(self, image: Image.Image) -> dict[str, list[tuple[float, float, float, float, float]]]:
        """By class, every object found, the surest first; thresholds are the benchmark's business."""
        import torch

        image = image.convert("RGB")
        with self._lock, torch.no_grad():
            output = self._model(pixel_values=torch.from_numpy(prepare(image))[None].to(self._model.device))
            found = instances(
                output.class_queries_logits[0].float().cpu(), output.masks_queries_logits[0].float().cpu()
            )
            boxes: dict[str, list[tuple[float, float, float, float, float]]] = {}
            masks: dict[str, list[np.ndarray]] = {}
            for label, confidence, mask in found:
                boxes.setdefault(self.names[label], []).append((*box_of(mask, image.size), confidence))
                masks.setdefault(self.names[label], []).append(mask)
            self._last = (hash(image.tobytes()), masks)
            return boxes

    def colors(self, image: Image.Image, name: str, indices: Sequence[int]) -> list[str]:
        """The color of each box: CLIP's choice among ten, for the object alone on grey, cropped to its
        box.
        """
        with self._lock:
            image = image.convert("RGB")
            if self._last[0] != hash(image.tobytes()):
                self(image)
            masks = self._last[1][name]
            crops = [_alone(image, masks[index]) for index in indices]
            if not crops:
                return []
            likeness = self._tower.embed_pictures(crops) @ self._color_texts(name).T  # (N, 10)
            return [COLORS[int(index)] for index in likeness.argmax(-1)]

    def _color_texts(self, name: str) -> Any:
        """Unit vectors (10, D): the mean of three templates for each color."""
        import torch

        if name not in self._texts:
            vectors = [
                self._tower.embed_texts([text.format(color=color, name=name) for text in _TEMPLATES]).mean(0)
                for color in COLORS
            ]
            self._texts[name] = torch.nn.functional.normalize(torch.stack(vectors), dim=-1)
        return self._texts[name]


class Likeness:
    """The cosine of a picture and a text in a CLIP tower."""

    def __init__(self, clip: str, device: str = "auto") -> None:
        self._tower = ClipTower(TowerOptions(model=clip, device=device))
        self.version = self._tower.version

    def __call__(self, image: Image.Image, text: str) -> float:
        """In [-1, 1]; the text is cut where the tower ends."""
        pictures, texts = self._tower.embed_pictures([image]), self._tower.embed_texts([text])
        return float((pictures * texts).sum())


def _alone(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """An object on grey, cropped to its box; the mask (h, w) may be coarser than the picture."""
    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    alone = Image.composite(image, Image.new("RGB", image.size, _GREY), whole)
    left, top, right, bottom = (int(side) for side in box_of(mask, image.size))
    return alone.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
