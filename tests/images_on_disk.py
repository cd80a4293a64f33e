"""Small pictures of the shapes world, written where a test wants them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from deepgen.shapes.render import render
from deepgen.shapes.scene import sample_scene


def scene_image(number: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Picture `number`, (height, width)."""
    image = render(sample_scene(np.random.default_rng(number)))
    return image.resize(size[::-1]) if size != (96, 96) else image


def write_image(path: Path, number: int, size: tuple[int, int] = (96, 96)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene_image(number, size).save(path)
    return path


def image_bytes(number: int, size: tuple[int, int] = (96, 96), format: str = "PNG") -> bytes:
    file = BytesIO()
    scene_image(number, size).save(file, format=format)
    return file.getvalue()
