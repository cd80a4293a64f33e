"""The object detector of rewards and benchmarks: Mask2Former for objects, CLIP for their colors.

Published GenEval numbers were made with the same network in another library and another checkpoint; how far
scores move is not known, so the version names what was used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from deepgen.image_colors import to_srgb
from deepgen.moved import renamed
from deepgen.rewards.clip import ClipTower, TowerOptions
from deepgen.rewards.interfaces import Box, ObjectDetector
from deepgen.rewards.remote_scorers import RemoteDetector, is_address

if TYPE_CHECKING:
    from torch import Tensor

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
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
_GREY = (153, 153, 153)  # what the rest of the image is painted with, #999
_MEAN, _DEVIATION = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
_SHORT, _LONG = 800, 1333  # pixels along the sides, as it was trained


def make_detector(model: str, tower: TowerOptions) -> ObjectDetector:
    """The detector of a name: a Hub id or folder of a Mask2Former, or the http:// address of a service.

    Args:
        model: the name.
        tower: the CLIP that names colors, and the device of both; a service names colors itself.
    """
    if is_address(model):
        return RemoteDetector(model)
    return Mask2FormerDetector(model, tower.device, ClipTower(tower))


class Mask2FormerDetector:
    """Objects with their masks, from a transformers Mask2Former; an `ObjectDetector`.

    Calls from several threads wait for each other.
    """

    def __init__(self, model: str, device: str, tower: ClipTower) -> None:
        import torch
        from transformers import Mask2FormerForUniversalSegmentation

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = Mask2FormerForUniversalSegmentation.from_pretrained(model)
        self._model.requires_grad_(False).eval().to(device)
        self._name_colors = ColorNamer(tower)
        self._last: tuple[int, dict[str, list[np.ndarray]]] = (0, {})
        self._lock = threading.RLock()
        self.names = {
            int(index): RENAMED.get(str(name), str(name))
            for index, name in self._model.config.id2label.items()
        }
        self.version = f"{model}+{tower.version}"

    def __call__(self, image: Image.Image) -> dict[str, list[Box]]:
        """By class, every object found, the surest first; thresholds are applied by the caller."""
        import torch

        image = to_srgb(image)
        with self._lock, torch.no_grad():
            output = self._model(pixel_values=torch.from_numpy(prepare(image))[None].to(self._model.device))
            found = instances(
                output.class_queries_logits[0].float().cpu(), output.masks_queries_logits[0].float().cpu()
            )
            boxes: dict[str, list[Box]] = {}
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
            image = to_srgb(image)
            if self._last[0] != hash(image.tobytes()):
                self(image)
            masks = self._last[1][name]
            return self._name_colors(image, [masks[index] for index in indices], name)


class ColorNamer:
    """CLIP's choice among ten colors, as GenEval puts it; for any detector with masks."""

    def __init__(self, tower: ClipTower) -> None:
        self._tower = tower
        self._texts: dict[str, Any] = {}

    def __call__(self, image: Image.Image, masks: Sequence[np.ndarray], name: str) -> list[str]:
        """The color of each object of a class, by its mask, bool (h, w), which may be coarser than the
        picture: the object alone on grey, cropped to its box.
        """
        crops = [_alone(to_srgb(image), mask) for mask in masks]
        if not crops:
            return []
        likeness = self._tower.embed_images(crops) @ self._color_texts(name).T  # (N, 10)
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


def _alone(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """An object on grey, cropped to its box; the mask (h, w) may be coarser than the picture."""
    whole = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.NEAREST)
    alone = Image.composite(image, Image.new("RGB", image.size, _GREY), whole)
    left, top, right, bottom = (int(side) for side in box_of(mask, image.size))
    return alone.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def object_finder(model: str, clip: str, device: str = "auto") -> ObjectDetector:
    """The call of the former `deepgen.eval.detection.ObjectFinder`; now `make_detector`."""
    return make_detector(model, TowerOptions(model=clip, device=device))


__getattr__ = renamed(__name__, {"Detector": "deepgen.rewards.detector.Mask2FormerDetector"})
