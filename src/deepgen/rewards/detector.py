"""An object detector for GenEval rows: Mask2Former for objects, CLIP for their colors.

What the published numbers were made with is the same network in another library; results differ a little.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from deepgen.rewards.clip import ClipTower
from deepgen.rewards.objects import Detection

if TYPE_CHECKING:
    from torch import Tensor

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
_MEAN, _DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
_SHORT, _LONG = 800, 1333  # pixels along the sides, as it was trained
_MOST_OF_A_CLASS = 16


class Detector:
    """Finds objects of the 80 classes of COCO. Calls from several threads wait for each other."""

    def __init__(self, model: str, device: str, tower: ClipTower) -> None:
        import torch
        from transformers import Mask2FormerForUniversalSegmentation

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = Mask2FormerForUniversalSegmentation.from_pretrained(model)
        self._model.requires_grad_(False).eval().to(device)
        self._tower, self._lock = tower, threading.Lock()
        self.names = {int(i): str(name) for i, name in self._model.config.id2label.items()}

    def __call__(self, image: Image.Image, threshold: float, colored: Collection[str]) -> list[Detection]:
        """Objects at least as sure as the threshold, the surest first; those of the classes in `colored` with
        their color.
        """
        import torch

        image = image.convert("RGB")
        pixels = torch.from_numpy(prepare(image))[None]
        with self._lock, torch.no_grad():
            output = self._model(pixel_values=pixels.to(self._model.device))
        found = instances(
            output.class_queries_logits[0].float().cpu(), output.masks_queries_logits[0].float().cpu()
        )
        detections, counts = [], dict[str, int]()
        for label, confidence, mask in found:
            name = self.names[label]
            if confidence < threshold or counts.get(name, 0) == _MOST_OF_A_CLASS:
                continue
            counts[name] = counts.get(name, 0) + 1
            box = box_of(mask, image.size)
            color = self._color(image, box, name) if name in colored else None
            detections.append(Detection(name=name, confidence=confidence, box=box, color=color))
        return detections

    def _color(self, image: Image.Image, box: tuple[float, float, float, float], name: str) -> str:
        crop = image.crop(
            (int(box[0]), int(box[1]), max(int(box[2]), int(box[0]) + 1), max(int(box[3]), int(box[1]) + 1))
        )
        texts = self._tower.embed_texts([f"a photo of a {color} {name}" for color in COLORS])  # (10, D)
        return COLORS[int((texts @ self._tower.embed_pictures([crop])[0]).argmax())]


def prepare(image: Image.Image) -> np.ndarray:
    """The picture as the detector sees it: float32 (3, H, W), short side 800, long side at most 1333."""
    scale = min(_SHORT / min(image.size), _LONG / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    return ((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1).astype(np.float32)


def instances(class_logits: Tensor, mask_logits: Tensor) -> list[tuple[int, float, np.ndarray]]:
    """(class, confidence, mask bool (h, w)) of every query that is an object, the surest first.

    Args:
        class_logits: (Q, K + 1), the last one for "nothing".
        mask_logits: (Q, h, w).

    The confidence is the class's probability times the mean probability of the pixels inside the mask.
    """
    found = []
    for logits, pixels in zip(class_logits.softmax(-1), mask_logits, strict=True):
        label = int(logits.argmax())
        mask = pixels > 0
        if label == len(logits) - 1 or not mask.any():
            continue
        confidence = float(logits[label] * pixels.sigmoid()[mask].mean())
        found.append((label, confidence, mask.numpy()))
    return sorted(found, key=lambda item: -item[1])


def box_of(mask: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a mask (h, w) in the pixels of a picture of that (width, height)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = size[0] / mask.shape[1], size[1] / mask.shape[0]
    return float(columns[0] * x), float(rows[0] * y), float((columns[-1] + 1) * x), float((rows[-1] + 1) * y)
