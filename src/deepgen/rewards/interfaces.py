"""Protocols of the models that rewards and benchmarks use: detector, text reader, CLIP scorer, VQA model.

One implementation serves both, see `detector`, `clip`, `ocr` and `remote_scorers` in this folder. A test or
another engine can stand in for any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

Box = tuple[float, float, float, float, float]  # left, top, right, bottom in pixels, confidence in [0, 1]


class ObjectDetector(Protocol):
    """Finds objects of GenEval's classes and names their colors.

    Attributes:
        version: the detector and what names colors, in one word.
    """

    version: str

    def __call__(self, image: Image.Image) -> dict[str, list[Box]]:
        """By class, every object found, the surest first; thresholds are applied by the caller."""
        ...

    def colors(self, image: Image.Image, name: str, indices: Sequence[int]) -> list[str]:
        """The colors of some of the boxes of a class, in the order `__call__` gave them for this image."""
        ...


class ImageTextScorer(Protocol):
    """The cosine of an image and a text.

    Attributes:
        version: the model in one word.
    """

    version: str

    def __call__(self, image: Image.Image, text: str) -> float:
        """In [-1, 1]."""
        ...


class TextReader(Protocol):
    """Reads the lines of text in an RGB image, in reading order.

    Attributes:
        version: the engine and how sure it has to be, in one word.
    """

    version: str

    def __call__(self, image: Image.Image) -> list[str]:
        """The lines, without empty ones."""
        ...


class QuestionAnswerer(Protocol):
    """Answers questions about an image.

    Attributes:
        version: the model in one word.
    """

    version: str

    def __call__(self, image: Image.Image, question: str) -> str:
        """The answer, in small letters."""
        ...
